# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Samplers, as generators of rows that lead from level to level, a file for each family of methods."""

from dreambooth_jax.diffusion.samplers.build import build_table, settings_of
from dreambooth_jax.diffusion.samplers.first_order import ddim, ddpm, euler, euler_a, implied_noise
from dreambooth_jax.diffusion.samplers.registry import SAMPLERS, Sampler

__all__ = [
    "SAMPLERS",
    "Sampler",
    "build_table",
    "ddim",
    "ddpm",
    "euler",
    "euler_a",
    "implied_noise",
    "settings_of",
]
