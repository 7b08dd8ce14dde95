# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Files of new words (textual inversion): read in every form, written in that of diffusers or of A1111.

    diffusers   {"<word>": [n, d]}                       one array in a file, or [d]; ours may have several
    A1111       {"emb_params": [n, d]}                   .safetensors; .pt: {"string_to_param": {"*": [n, d]}, ...}
    SDXL        {"clip_l": [n, 768], "clip_g": [n, 1280]}
    picture     a PNG that has A1111's within            :mod:`.word_pictures`
    in a LoRA   bundle_emb.<word>.string_to_param.*      as A1111 reads it; or .clip_l and .clip_g, as OneTrainer does

Where a file does not say which word it is for, its own name is the word, as in A1111. Only diffusers' form with one
word is read by all of diffusers, A1111, Forge and ComfyUI.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

from dreambooth_jax.errors import InputError
from dreambooth_jax.paths import at_home
from dreambooth_jax.weights.adapters.dialects import read_key
from dreambooth_jax.weights.adapters.hashes import sshs_hashes
from dreambooth_jax.weights.files import Leaf, leaf_of
from dreambooth_jax.weights.single_file import is_single_file, read_single
from dreambooth_jax.weights.whole_files import in_order, write_whole
from dreambooth_jax.weights.word_pictures import is_picture, read_word_picture
from dreambooth_jax.weights.word_shapes import MOST_VECTORS, MOST_WORDS, may_be_words

Form: TypeAlias = Literal["diffusers", "a1111"]
PARTS = ("clip_l", "clip_g")
"""Names of vectors for each text encoder, in the order in which a model has them."""
BUNDLE = "bundle_emb."
"""What names begin with in the file of a LoRA."""
_A1111 = ("emb_params", "string_to_param.*")
_OTHER_PARTS = ("t5", "clip_l_out", "clip_g_out", "t5_out")
"""What OneTrainer writes for other models, or for after the text encoder."""


class Embedding(NamedTuple):
    """A new word.

    Attributes:
        word: as the file calls it.
        parts: name of a text encoder, one of ``PARTS``, or "" where the file has vectors for one alone -> [n, d].
        file: that it is from.
    """

    word: str
    parts: Mapping[str, Float[np.ndarray, "n d"]]
    file: Path

    @property
    def vectors(self) -> int:
        """How many it has."""
        return max(len(part) for part in self.parts.values())


def is_embedding(path: str | Path) -> bool:
    """Whether it is a file of new words and of nothing else, by its names and shapes.

    Raises:
        InputError: if it is a broken file.
    """
    file = at_home(path)
    if not (file.is_file() and is_single_file(file)):
        return False
    return may_be_words(read_single(file)[0])


def has_words(path: str | Path) -> bool:
    """Whether the file of a LoRA brings new words.

    Raises:
        InputError: if it is not there, or broken.
    """
    return any(name.startswith(BUNDLE) for name in read_single(at_home(path))[0])


def read_embeddings(path: str | Path) -> list[Embedding]:
    """The words of a file of words, or of a LoRA with words.

    Raises:
        InputError: if it is not there, broken, or holds none.
    """
    file = at_home(path)
    leaves, _ = read_single(file)
    bundled = {name.removeprefix(BUNDLE): leaf for name, leaf in leaves.items() if name.startswith(BUNDLE)}
    if bundled:
        return embeddings_of_bundle(file, bundled)
    if set(leaves) & {*PARTS, *_A1111}:
        return [_embedding(file, read_word_picture(file).word if is_picture(file) else file.stem, leaves)]
    if any(read_key(name) is not None for name in leaves):
        raise InputError(f"{file} is an adapter, without new words: add it to the model with lora={file}")
    if not leaves or any(len(leaf.shape) not in (1, 2) for leaf in leaves.values()) or len(leaves) > MOST_WORDS:
        raise InputError(
            f"{file} is no file of new words: its arrays are called {', '.join(sorted(leaves)[:3]) or 'nothing'}"
        )
    return [_embedding(file, word, {_A1111[0]: leaf}) for word, leaf in leaves.items()]


def embeddings_of_bundle(file: Path, bundled: Mapping[str, Leaf]) -> list[Embedding]:
    """The words that come with a LoRA.

    Args:
        file: of the LoRA.
        bundled: its arrays ``bundle_emb.…``, without that beginning.
    """
    words: dict[str, dict[str, Leaf]] = {}
    for name, leaf in bundled.items():
        for part in (*_A1111, *PARTS, *_OTHER_PARTS):
            if name.endswith(f".{part}"):
                words.setdefault(name.removesuffix(f".{part}"), {})[part] = leaf
                break
        else:
            raise InputError(f"{file} has {BUNDLE}{name}, which is in no form that A1111 or OneTrainer writes")
    return [_embedding(file, word, leaves) for word, leaves in words.items()]


def _embedding(file: Path, word: str, leaves: Mapping[str, Leaf]) -> Embedding:
    """Of the arrays of one word: those of A1111's form count before those for each text encoder."""
    named = {name: leaf for name, leaf in leaves.items() if name in (*_A1111, *PARTS)}
    unknown = sorted(leaves.keys() - named.keys() - set(_OTHER_PARTS))
    if unknown or not named:
        raise InputError(f"{file} has {(unknown or sorted(leaves))[0]}, which no word of Stable Diffusion has")
    whole = next((named[name] for name in _A1111 if name in named), None)
    parts = {part: named[part] for part in PARTS if part in named}
    if whole is not None and len(parts) < len(PARTS):
        parts = {"": whole}
    vectors = {part: _loaded(file, word, leaf) for part, leaf in parts.items()}
    if len({len(rows) for rows in vectors.values()}) > 1:
        counts = " and ".join(f"{len(rows)} of {part}" for part, rows in vectors.items())
        raise InputError(
            f"{file}: {word[:40]!r} has {counts}: a word is as many vectors for each text encoder; take another copy"
        )
    return Embedding(word, vectors, file)


def _loaded(file: Path, word: str, leaf: Leaf) -> Float[np.ndarray, "n d"]:
    shape = leaf.shape if len(leaf.shape) == 2 else (1, *leaf.shape)
    if len(shape) != 2 or not 0 < shape[0] <= MOST_VECTORS or not shape[1]:
        raise InputError(f"{file}: {word[:40]!r} has shape {list(leaf.shape)}, not that of 1 to {MOST_VECTORS} vectors")
    if leaf.dtype.kind not in "fV":  # V is bfloat16's
        raise InputError(f"{file}: {word[:40]!r} is {leaf.dtype.name}, not real")
    array = leaf.load().astype(np.float32).reshape(shape)
    if not np.isfinite(array).all():
        raise InputError(f"{file}: {word[:40]!r} has values that are not finite: take another copy")
    return array


def vectors_for(embedding: Embedding, widths: Mapping[str, int]) -> dict[str, Float[np.ndarray, "n d"]]:
    """Text encoder -> its vectors of a word.

    Args:
        embedding: the word.
        widths: of each text encoder of the model, in its order.

    Raises:
        InputError: if it is for another kind of model.
    """
    parts = embedding.parts
    names = dict(zip(widths, PARTS if len(widths) > 1 else ("" if "" in parts else "clip_l",)))
    has = {part: part_.shape[1] for part, part_ in parts.items()}
    if set(names.values()) != set(parts) or any(has[names[encoder]] != width for encoder, width in widths.items()):
        theirs = " and ".join(str(width) for width in has.values())
        ours = " and ".join(str(width) for width in widths.values())
        raise InputError(
            f"{embedding.file}: the vectors of {embedding.word!r} have {theirs} numbers, those of this model {ours}: "
            f"it was made for another ({_made_for(tuple(has.values()))})"
        )
    return {encoder: parts[name] for encoder, name in names.items()}


def _made_for(widths: Sequence[int]) -> str:
    kinds = {(768,): "Stable Diffusion 1", (1024,): "Stable Diffusion 2", (768, 1280): "Stable Diffusion XL"}
    return kinds.get(tuple(widths), "of other text encoders")


def named_leaves(word: str, vectors: Mapping[str, Any], *, form: Form) -> dict[str, Leaf]:
    """A word as arrays of a file of its own.

    Args:
        word: the word.
        vectors: text encoder -> [n, d], in the model's order.
        form: what one text encoder's are called; with several both forms are the same.
    """
    arrays = [np.asarray(array, np.float32) for array in vectors.values()]
    if len(arrays) > 1:
        return {part: leaf_of(array) for part, array in zip(PARTS, arrays, strict=True)}
    return {word if form == "diffusers" else _A1111[0]: leaf_of(arrays[0])}


def bundled_leaves(word: str, vectors: Mapping[str, Any]) -> dict[str, Leaf]:
    """A word as arrays in the file of a LoRA: as A1111 and ComfyUI, and as OneTrainer calls them."""
    arrays = [np.asarray(array, np.float32) for array in vectors.values()]
    leaves = {f"{BUNDLE}{word}.{part}": leaf_of(array) for part, array in zip(PARTS, arrays)}
    if len(arrays) == 1:
        leaves[f"{BUNDLE}{word}.{_A1111[1]}"] = leaf_of(arrays[0])
    return leaves


def write_embedding(
    path: str | Path,
    word: str,
    vectors: Mapping[str, Any],
    *,
    form: Form = "diffusers",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a file of one word, in float32.

    Args:
        path: of the file.
        word: the word. A1111 and ComfyUI know it by the file's name, whatever it is.
        vectors: text encoder -> [n, d].
        form: "diffusers" is read by all tools; "a1111" has no word in it.
        metadata: what the file says of itself, apart from hashes.

    Raises:
        InputError: if it cannot be saved, or values are not finite.
    """
    if Path(path).suffix.lower() != ".safetensors":
        raise InputError(f"{path}: a word is one file, whose name ends in .safetensors, such as word.safetensors")
    if not all(np.isfinite(np.asarray(array)).all() for array in vectors.values()):
        raise InputError(f"the vectors of {word!r} have values that are not finite: nothing is saved")
    leaves = in_order(named_leaves(word, vectors, form=form))
    texts = {"format": "pt", **(metadata or {})}
    write_whole(at_home(path), leaves, texts | sshs_hashes(leaves, texts))
