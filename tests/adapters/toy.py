# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""An adapter that computes: a product of two small matrices is added to kernels of attention.

Groups are named by what they are, not by their network, and what is new in them is drawn.
"""

import jax
import jax.numpy as jnp

from dreambooth_jax import rng
from dreambooth_jax.adapters import Adapter
from dreambooth_jax.models.parts import whole
from dreambooth_jax.trees import flatten, unflatten

NETWORKS = {"words": ("text_encoder",), "pictures": ("unet",)}
RANK = 2
TABLE = "text_encoder/token_embedding/embedding"


def low_rank(*groups: str) -> Adapter:
    """kernel + up · down, where up is zero at first: ``words`` adapts the text encoder, ``pictures`` the UNet."""

    def init(key, params):
        def pair(name, kernel):
            drawn = jax.random.normal(rng.stream(key, name), (RANK, kernel.shape[1]))
            return {"up": jnp.zeros((kernel.shape[0], RANK)), "down": drawn}

        def kernels(network):
            found = flatten({network: params[network]})
            return {name: leaf for name, leaf in found.items() if name.endswith(("to_q/kernel", "q_proj/kernel"))}

        trainable = {
            group: {name.replace("/", "."): pair(name, leaf) for name, leaf in kernels(NETWORKS[group][0]).items()}
            for group in groups
        }
        return params, trainable

    def compose(frozen, trainable):
        leaves = flatten(frozen)
        for group in trainable.values():
            for name, pair in group.items():
                name = name.replace(".", "/")
                if name in leaves:
                    kernel, up, down = whole((leaves[name], pair["up"], pair["down"]))
                    leaves[name] = kernel + up @ down
        return unflatten(leaves)

    return Adapter(init, compose, NETWORKS.__getitem__)


def words(
    group: str = "tokens", *, count: int = 2, embedding: str = "text_encoder/token_embedding/embedding"
) -> Adapter:
    """``count`` new rows of an embedding, the mean of all at first; a number that is kept fixed says how much of it."""

    def init(key, params):
        del key
        leaves = flatten(params)
        rows = jnp.broadcast_to(leaves[embedding].mean(axis=0), (count, leaves[embedding].shape[1]))
        network = embedding.split("/")[0]
        return unflatten(leaves | {f"{network}/adapter/share": jnp.ones(())}), {group: {"rows": rows}}

    def compose(frozen, trainable):
        leaves = flatten(frozen)
        network = embedding.split("/")[0]
        share = leaves.pop(f"{network}/adapter/share", None)
        if group in trainable and embedding in leaves:
            table, share, rows = whole((leaves[embedding], share, trainable[group]["rows"]))
            leaves[embedding] = jnp.concatenate([table, share * rows])
        return unflatten(leaves)

    def extend(pipe):
        return [*pipe, group]

    return Adapter(init, compose, lambda _: (embedding.split("/")[0],), extend, groups=(group,))


def shifted(group: str = "shifts", *, leaf: str = TABLE) -> Adapter:
    """A leaf is trained itself, in a group of its own."""

    def init(key, params):
        del key
        leaves = flatten(params)
        return unflatten({name: one for name, one in leaves.items() if name != leaf}), {group: {"leaf": leaves[leaf]}}

    def compose(frozen, trainable):
        return unflatten(flatten(frozen) | ({leaf: trainable[group]["leaf"]} if group in trainable else {}))

    return Adapter(init, compose, lambda _: (leaf.split("/")[0],), groups=(group,))
