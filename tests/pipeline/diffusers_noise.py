# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Diffusers' pipelines with the noise of ours: each draw from torch is replaced by an array."""

from collections.abc import Iterable
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from dreambooth_jax import rng


def posterior_noise(seeds: Iterable[int], shape: tuple[int, ...], dtype: str, stream: str = "posterior") -> np.ndarray:
    """What latents [h, w, c] of given pictures are drawn with, each by its picture's key."""
    keys = [rng.stream(rng.root_key(seed), stream) for seed in seeds]
    return np.stack([jax.random.normal(key, shape, jnp.dtype(dtype)) for key in keys])


def replaced(module: str, *draws: np.ndarray):
    """``randn_tensor``, as a module of diffusers has imported it, gives these [b, h, w, c] one after another."""
    import torch

    left = iter(draws)

    def randn_tensor(shape, **_):
        draw = torch.tensor(np.asarray(next(left)).transpose(0, 3, 1, 2))
        assert draw.shape == torch.Size(shape)
        return draw

    return mock.patch(f"diffusers.{module}.randn_tensor", randn_tensor)
