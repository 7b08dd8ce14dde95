# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""All ways to change kernels, by name: of a run's ``adapter.kind``, or of what a file holds."""

from dreambooth_jax.adapters.kernels import KernelMethod
from dreambooth_jax.adapters.low_rank import LORA

METHODS: dict[str, KernelMethod] = {method.name: method for method in (LORA,)}
