# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""(IA)³: each channel of a layer is scaled by a number of its own (Liu et al. 2022).

    y' = (x · (1 + w)) W + b    on the inputs          y' = (x W) · (1 + w) + b    on the outputs

Tensors, as LyCORIS has them: ``weight`` w, [channels] of a dense layer and [1, 1, channels, 1] of a convolution, zero
at first; ``on_input``, 0 or 1. The paper scales keys and values, and what the feed-forward network's last layer takes.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dreambooth_jax.adapters.base import Adapter
from dreambooth_jax.adapters.kernels import Beside, KernelMethod, Tensors, is_convolution, kernel_adapter
from dreambooth_jax.adapters.targets import Layers
from dreambooth_jax.adapters.tensors import wide_dtype
from dreambooth_jax.trees import matcher

ON_INPUT = (r".*/ff/net_2/kernel", r".*/mlp/fc2/kernel")
"""Kernels whose inputs are scaled: the last layers of feed-forward networks. Of all others it is the outputs."""


def start(kernel: Any, *, on_input: bool) -> tuple[Tensors, Tensors]:
    """(fixed, trained) tensors that change nothing yet: no channel is scaled."""
    channels = kernel.shape[-2 if on_input else -1]
    shape = (1, 1, channels, 1) if is_convolution(kernel) else (channels,)
    return {"on_input": jnp.asarray(int(on_input), jnp.int32)}, {"weight": jnp.zeros(shape, wide_dtype(kernel))}


def _gains(kernel: Any, tensors: Tensors) -> tuple[Float[Array, " i"] | None, Float[Array, " o"] | None]:
    """What inputs and outputs are multiplied by, or None. Both where the traced ``on_input`` alone tells which."""
    inputs, outputs = kernel.shape[-2:]
    gain = 1 + tensors["weight"].reshape(-1)
    if inputs != outputs:
        return (gain, None) if gain.shape[0] == inputs else (None, gain)
    on_input = tensors.get("on_input", jnp.zeros(())) != 0
    return jnp.where(on_input, gain, 1), jnp.where(on_input, 1, gain)


def _kernel(kernel: Any, tensors: Tensors) -> Float[Array, "..."]:
    on_inputs, on_outputs = _gains(kernel, tensors)
    to_all = [1] * (len(kernel.shape) - 2)
    if on_inputs is not None:
        kernel = kernel * on_inputs.reshape(*to_all, -1, 1)
    if on_outputs is not None:
        kernel = kernel * on_outputs.reshape(*to_all, 1, -1)
    return kernel


def _beside(kernel: Any, tensors: Tensors) -> Beside:
    on_inputs, on_outputs = _gains(kernel, tensors)
    return Beside(inputs=on_inputs, outputs=on_outputs)


IA3 = KernelMethod("ia3", _kernel, _beside)


def ia3(layers: Layers, *, on_input: tuple[str, ...] = ON_INPUT) -> Adapter:
    """The adapter of these layers; ``on_input`` are patterns of the kernels whose inputs are scaled."""
    takes = matcher(on_input)

    def first(key: Key[Array, ""], name: str, kernel: Any) -> tuple[Tensors, Tensors]:
        del key
        return start(kernel, on_input=takes(name))

    return kernel_adapter(IA3, first, layers)
