# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Hardware that need not be there: data sheets, devices to compile for, and what a program asks of them.

Neither ``CHIPS`` nor ``environment`` imports jax, so that a process can be given its environment before it does.
"""

from dreambooth_jax.hardware.chips import CHIPS, Chip
from dreambooth_jax.hardware.described import describe, environment

__all__ = ["CHIPS", "Chip", "describe", "environment"]
