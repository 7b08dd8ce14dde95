# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""One attention layer, with its projections and all gradients, each way, compiled and compared by bytes and operations.

A process for one target, as ``hardware/compile.py``: rows are added to a file.
"""

import json
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from dreambooth_jax.flops import flops
from dreambooth_jax.hardware import describe
from dreambooth_jax.models.attention import even_attention
from dreambooth_jax.models.blocked_attention import blocked_attention
from dreambooth_jax.models.splash_attention import splash_attention
from dreambooth_jax.planning.measure import compile_and_read
from hardware.jobs import read

SHAPES = [
    (2, 4096, 4096, 8, 40),
    (16, 4096, 4096, 8, 40),
    (2, 4225, 4225, 8, 40),
    (2, 1024, 1024, 8, 80),
    (2, 256, 256, 8, 160),
    (2, 9216, 9216, 5, 64),
    (2, 4096, 77, 8, 40),
    (16, 4096, 77, 8, 40),
    (2, 9216, 77, 5, 64),
]
"""(examples, queries, keys, heads, size): Stable Diffusion 1.5 at 512² and 520², 2.1 at 768²."""
TEXT = {5: 1024}
"""Channels of the text, by number of heads; 768 for 1.5."""
LOGITS = 2**26


def ways(platform: str) -> dict[str, Callable]:
    """Name -> function of query, key, value."""

    def blocked(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        logits = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[1]
        return blocked_attention(query, key, value, False, math.ceil(logits / LOGITS), False)

    fused = partial(even_attention, partial(jax.nn.dot_product_attention, implementation="cudnn"), causal=False)
    kernel = {"cuDNN": fused} if platform == "gpu" else {"splash": splash_attention}
    return kernel | {"plain": partial(jax.nn.dot_product_attention, implementation="xla"), "blocked": blocked}


def layer(attention: Callable, heads: int) -> Callable:
    """Loss and gradients of a layer, as a network has it: copies that a kernel's layout asks for count."""

    def loss(weights: dict, x: jax.Array, context: jax.Array) -> jax.Array:
        q, k, v = (
            (source @ weights[name]).reshape(*source.shape[:2], heads, -1)
            for name, source in (("q", x), ("k", context), ("v", context))
        )
        y = x + attention(q, k, v).reshape(x.shape) @ weights["o"]
        return jnp.sum(jnp.square(y.astype(jnp.float32)))

    return jax.value_and_grad(loss, (0, 1, 2))


def main(target: str, file: Path) -> None:
    """Add what is not there yet."""
    chip, (device, *_) = describe(target)
    done = [(row["target"], row["way"], tuple(row["shape"])) for row in read(file)]

    def shape(*sizes: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, jnp.bfloat16, sharding=SingleDeviceSharding(device))

    for batch, queries, keys, heads, size in SHAPES:
        channels = heads * size
        text = channels if queries == keys else TEXT.get(heads, 768)
        weights = {name: shape(text if name in "kv" else channels, channels) for name in "qkvo"}
        for way, attention in ways(chip.platform).items():
            job = (target, way, (batch, queries, keys, heads, size))
            if job in done or (way == "cuDNN" and size > 128):
                continue
            function = layer(attention, heads)
            arguments = weights, shape(batch, queries, channels), shape(batch, keys, text)
            measured = compile_and_read(jax.jit(function).lower(*arguments))
            row = dict(zip(("target", "way", "shape"), job))
            row |= {"temporaries": measured.usage.temporaries, "traffic": measured.traffic}
            row["flops"] = flops(function, *arguments)
            print(row, file=sys.stderr, flush=True)
            with file.open("a") as rows:
                rows.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
