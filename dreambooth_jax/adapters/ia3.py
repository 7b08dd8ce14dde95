# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""(IA)³: each channel of a layer is scaled by a number of its own (Liu et al. 2022).

    y' = (x · (1 + w)) W + b    on the inputs          y' = (x W) · (1 + w) + b    on the outputs

Tensors, as LyCORIS has them: ``weight`` w, [channels] of a dense layer and [1, 1, channels, 1] of a convolution, zero
at first; ``on_input``, 0 or 1. The paper scales keys and values, and what the feed-forward network's last layer is given.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from dreambooth_jax.adapters.kernels import Beside, KernelMethod, Tensors, is_convolution


def start(kernel: Any, *, on_input: bool) -> tuple[Tensors, Tensors]:
    """(fixed, trained) tensors that change nothing yet: no channel is scaled."""
    channels = kernel.shape[-2 if on_input else -1]
    shape = (1, 1, channels, 1) if is_convolution(kernel) else (channels,)
    return {"on_input": jnp.asarray(int(on_input), jnp.int32)}, {"weight": jnp.zeros(shape)}


def _gains(kernel: Any, tensors: Tensors) -> tuple[Float[Array, "i"] | None, Float[Array, "o"] | None]:
    """What inputs and outputs are multiplied by, or None. Both where only ``on_input``, which is traced, tells which."""
    inputs, outputs = kernel.shape[-2:]
    gain = 1 + tensors["weight"].reshape(-1)
    if inputs != outputs:
        return (gain, None) if gain.shape[0] == inputs else (None, gain)
    on_input = tensors["on_input"] != 0
    return jnp.where(on_input, gain, 1), jnp.where(on_input, 1, gain)


def _kernel(kernel: Float[Array, "..."], tensors: Tensors) -> Float[Array, "..."]:
    on_inputs, on_outputs = _gains(kernel, tensors)
    to_all = [1] * (len(kernel.shape) - 2)
    if on_inputs is not None:
        kernel = kernel * on_inputs.reshape(*to_all, -1, 1)
    if on_outputs is not None:
        kernel = kernel * on_outputs.reshape(*to_all, 1, -1)
    return kernel


def _beside(kernel: Float[Array, "..."], tensors: Tensors) -> Beside:
    on_inputs, on_outputs = _gains(kernel, tensors)
    return Beside(inputs=on_inputs, outputs=on_outputs)


IA3 = KernelMethod("ia3", _kernel, _beside)
