# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Textual inversion (Gal et al. 2022, arXiv 2208.01618): new words are learned, and nothing of the model changes.

    trainable = {"tokens": {"text_encoder": [n, d]}}          the vectors of all new words, for each text encoder
    composed  = {"text_encoder": {..., "token_embedding": {"embedding": [V, d], "added": [n, d]}}, ...}

The vectors are a parameter of their own beside the table of the vocabulary, which stays the same array: they alone have
gradients and moments.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from dreambooth_jax import rng
from dreambooth_jax.adapters.base import Adapter
from dreambooth_jax.models.beside import Beside, Deltas
from dreambooth_jax.models.parts import whole
from dreambooth_jax.trees import Tree, flatten, unflatten

TOKENS = "tokens"
"""The group of the vectors."""
TABLE, ADDED = "token_embedding/embedding", "token_embedding/added"
"""Ends of the names of a text encoder's table, and of the vectors beside it."""
Beginning: TypeAlias = tuple[int, ...]
"""Ids whose mean a vector is at first; none for one that is drawn."""
Norm: TypeAlias = Literal["free", "initial", "table"]


def textual_inversion(
    words: Mapping[str, int], beginnings: Mapping[str, Sequence[Beginning]], *, norm: Norm = "free"
) -> Adapter:
    """Train the vectors of new words.

    Args:
        words: how many vectors each has.
        beginnings: text encoder -> what each vector is at first, of all words one after the other.
        norm: what becomes of a vector's length. "free": nothing, as in the paper and diffusers' script; "initial":
            after each step it is what it was at first; "table": the same, and at first it is the median of the
            vocabulary's, as OneTrainer's "preserve embedding norm" has it.
    """

    def init(key: Key[Array, ""], params: Tree) -> tuple[Tree, Tree]:
        def first(encoder: str) -> Array:
            table = table_of(params[encoder])
            own = rng.stream(key, f"{TOKENS}/{encoder}")
            return first_vectors(own, table, beginnings[encoder], like_table=norm == "table")

        return params, {TOKENS: {encoder: first(encoder) for encoder in beginnings}}

    def compose(frozen: Tree, trainable: Tree) -> Tree:
        vectors = trainable.get(TOKENS, {})
        return {name: with_added(tree, vectors[name]) if name in vectors else tree for name, tree in frozen.items()}

    def members(frozen: Tree, trainable: Tree) -> tuple[Tree, Deltas]:
        vectors = {name: one for name, one in whole(trainable.get(TOKENS, {})).items() if name in frozen}
        layers = {name: _name(frozen[name]).rpartition("/")[0] for name in vectors}
        return frozen, {name: {layers[name]: Beside(added=one)} for name, one in vectors.items()}

    def project(group: str, before: Tree, after: Tree) -> Tree:
        return after if norm == "free" or group != TOKENS else jax.tree.map(keep_lengths, before, after)

    return Adapter(
        init,
        compose,
        lambda _: tuple(beginnings),
        extend=lambda pipe: pipe.with_words(words),
        project=project,
        groups=(TOKENS,),
        members=members,
    )


def table_of(params: Tree) -> Any:
    """The vectors of a text encoder's vocabulary, [v, d]."""
    return flatten(params)[_name(params)]


def added_of(params: Tree) -> Any:
    """The vectors of the words that it was taught, [n, d]; None where there are none."""
    return flatten(params).get(_name(params).removesuffix(TABLE) + ADDED)


def with_added(params: Tree, vectors: Any) -> Tree:
    """A text encoder's parameters with these vectors [n, d] beside its table, in the place of those that were there."""
    return unflatten({**flatten(params), _name(params).removesuffix(TABLE) + ADDED: vectors})


def without_added(params: Tree) -> Tree:
    """A text encoder's parameters without vectors of new words."""
    return unflatten({name: leaf for name, leaf in flatten(params).items() if not name.endswith(ADDED)})


def _name(params: Tree) -> str:
    (name,) = (name for name in flatten(params) if name.endswith(TABLE))
    return name


def first_vectors(
    key: Key[Array, ""], table: Float[Array | np.ndarray, "v d"], beginnings: Sequence[Beginning], *, like_table: bool
) -> Float[Array, "n d"]:
    """What vectors are before the first step, in at least float32.

    Args:
        key: of those that are drawn: normal numbers of the table's standard deviation.
        table: of the vocabulary.
        beginnings: of each vector.
        like_table: with the median length of the table's vectors.
    """
    wide = jnp.asarray(table, jnp.promote_types(table.dtype, jnp.float32))

    def one(number: int, ids: Beginning) -> Array:
        if ids:
            return wide[jnp.asarray(ids)].mean(0)
        return wide.std() * jax.random.normal(rng.stream(key, "vector", number), wide.shape[1:], wide.dtype)

    vectors = jnp.stack([one(number, ids) for number, ids in enumerate(beginnings)])
    return with_lengths(vectors, jnp.median(lengths(wide))) if like_table else vectors


def keep_lengths(before: Float[Array, "n d"], after: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """``after`` with the lengths of ``before``; what is all zero has no direction, and stays so."""
    return with_lengths(after, lengths(before))


def with_lengths(vectors: Float[Array, "n d"], wanted: Float[Array, "*n_1"]) -> Float[Array, "n d"]:
    """Vectors of these lengths in the same directions; what is all zero stays so."""
    own = lengths(vectors)
    return vectors * (wanted / jnp.where(own > 0, own, 1))


def lengths(vectors: Float[Array, "n d"]) -> Float[Array, "n 1"]:
    """Of each vector."""
    return jnp.linalg.norm(vectors, axis=-1, keepdims=True)
