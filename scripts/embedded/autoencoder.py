# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The autoencoder's stage: pictures back to themselves through a Gaussian of few numbers.

    L = log(mean (x̂ − x)² + ε) + k · KL(q(z|x) ‖ N(0, 1)) / numbers in z

The logarithm is the likelihood under a Gaussian as wide as each picture's own error (Rybkin et al. 2021), and, but for
a factor, the decibels that the result is measured in. ε is an error that nobody sees: plain pictures soon have less.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from dreambooth_jax import rng
from dreambooth_jax.diffusion.process import sample_posterior
from dreambooth_jax.models import AutoencoderKL
from dreambooth_jax.training.step import Batch, Metrics
from dreambooth_jax.trees import Tree

from .fit import HostBatch

_UNSEEN = 1e-3
"""Mean square error, of pictures in [-1, 1]: 36 dB."""


def to_float(pictures: UInt8[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """[0, 255] -> [-1, 1]."""
    return pictures.astype(jnp.float32) / 127.5 - 1


@dataclass(frozen=True, kw_only=True)
class AutoencoderObjective:
    """An ``Objective`` over batches of ``pictures`` and ``index``."""

    vae: AutoencoderKL
    batch_size: int
    kl_weight: float

    def __call__(
        self, params: Tree, batch: Batch, *, root_key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        """The loss of some rows, divided by the whole step's number of rows."""
        pictures, keys = to_float(batch["pictures"]), rng.per_example(rng.stream(root_key, "z", step), batch["index"])
        mean, logvar = _apply(self.vae, params["vae"], pictures, "encode")
        error = _apply(self.vae, params["vae"], sample_posterior(keys, mean, logvar, 1.0), "decode") - pictures
        kl = 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1 - logvar).mean((1, 2, 3))
        square = jnp.square(error).mean((1, 2, 3))
        loss = jnp.log(square + _UNSEEN) + self.kl_weight * kl
        share = 1 / self.batch_size
        return loss.sum() * share, {"mse": square.sum() * share, "kl": kl.sum() * share}


def batch_at(step: int, *, pictures: UInt8[np.ndarray, "n h w c"], batch_size: int, seed: int) -> HostBatch:
    """Pictures drawn at random for a step."""
    rows = np.random.default_rng((seed, step)).integers(0, len(pictures), batch_size)
    return {"pictures": pictures[np.sort(rows)], "index": np.arange(batch_size, dtype=np.int32)}


def _apply(vae: AutoencoderKL, params: Tree, inputs: Array, method: str) -> Any:
    return vae.apply({"params": params}, inputs, method=method)


@partial(jax.jit, static_argnames="vae")
def _moments(vae: AutoencoderKL, params: Tree, pictures: Array) -> tuple[Array, Array]:
    return _apply(vae, params, to_float(pictures), "encode")


@partial(jax.jit, static_argnames="vae")
def _restored(vae: AutoencoderKL, params: Tree, pictures: Array) -> Array:
    return _apply(vae, params, to_float(pictures), "__call__")


def in_batches(
    function: Callable[[np.ndarray], Any], pictures: UInt8[np.ndarray, "n h w c"], size: int = 64
) -> Iterator[Any]:
    """Batches of ``function``'s results as numpy; the last is padded, so that one program does all."""
    for start in range(0, len(pictures), size):
        rows = np.minimum(np.arange(start, start + size), len(pictures) - 1)
        count = min(size, len(pictures) - start)
        yield jax.tree.map(lambda x, count=count: np.asarray(x)[:count], function(pictures[rows]))


def moments(vae: AutoencoderKL, params: Tree, pictures: UInt8[np.ndarray, "n h w c"]) -> tuple[np.ndarray, np.ndarray]:
    """(means, log variances) of all pictures, float16."""
    parts = [
        (mean.astype(np.float16), logvar.astype(np.float16))
        for mean, logvar in in_batches(partial(_moments, vae, params), pictures)
    ]
    means, logvars = zip(*parts)
    return np.concatenate(means), np.concatenate(logvars)


def restored(vae: AutoencoderKL, params: Tree, pictures: UInt8[np.ndarray, "n h w c"]) -> np.ndarray:
    """Reconstructions, uint8."""
    parts = in_batches(partial(_restored, vae, params), pictures)
    return np.concatenate([np.clip(np.round(127.5 * (x + 1)), 0, 255).astype(np.uint8) for x in parts])


def psnr(found: np.ndarray, wanted: np.ndarray) -> float:
    """Mean over pictures of 10 log10(255² / mse), in dB."""
    errors = np.square(found.astype(np.float64) - wanted).mean((1, 2, 3))
    return float(np.mean(10 * np.log10(255**2 / np.maximum(errors, 1e-3))))
