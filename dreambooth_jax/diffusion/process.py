# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The forward process, and what a network may predict about it.

    x_t = α x_0 + σ ε,    v = α ε − σ x_0,    α = √ᾱ_t,  σ = √(1 − ᾱ_t),  α² + σ² = 1

(x_t, v) is (x_0, ε) turned by an angle, so v always tells both, while ε says nothing of x_0 where α = 0, and x_0
nothing of ε where σ = 0. ᾱ is one number for a whole batch, or one for each example.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dreambooth_jax.diffusion.schedule import PredictionType

Latents: TypeAlias = Float[Array, "b *shape"]
AlphaBar: TypeAlias = Float[Array, ""] | Float[Array, "b"]
Number: TypeAlias = float | Array
Coefficients: TypeAlias = Callable[[Number, Number], tuple[Number, Number]]

# (of the prediction, of the noisy x), from α and σ
_READINGS: Mapping[tuple[PredictionType, PredictionType], Coefficients] = {
    ("epsilon", "sample"): lambda a, s: (-s / a, 1 / a),
    ("epsilon", "v_prediction"): lambda a, s: (1 / a, -s / a),
    ("sample", "epsilon"): lambda a, s: (-a / s, 1 / s),
    ("sample", "v_prediction"): lambda a, s: (-1 / s, a / s),
    ("v_prediction", "epsilon"): lambda a, s: (a, s),
    ("v_prediction", "sample"): lambda a, s: (-s, a),
}


def alpha_sigma(alpha_bar: AlphaBar, like: Latents) -> tuple[Array, Array]:
    """(α, σ) in the shape and dtype that multiply ``like``."""
    alpha_bar = alpha_bar.astype(like.dtype)
    if alpha_bar.ndim:
        alpha_bar = alpha_bar.reshape(-1, *(1,) * (like.ndim - 1))
    return jnp.sqrt(alpha_bar), jnp.sqrt(1 - alpha_bar)


def reading(source: PredictionType, target: PredictionType, alpha: Number, sigma: Number) -> tuple[Number, Number]:
    """(c, d): what a prediction p of ``source`` at the noisy x says about ``target`` is c p + d x."""
    return (1.0, 0.0) if source == target else _READINGS[source, target](alpha, sigma)


def add_noise(x0: Latents, noise: Latents, alpha_bar: AlphaBar) -> Latents:
    """x_t = α x_0 + σ ε: the only place where noise meets data."""
    alpha, sigma = alpha_sigma(alpha_bar, x0)
    return alpha * x0 + sigma * noise


def training_target(prediction_type: PredictionType, x0: Latents, noise: Latents, alpha_bar: AlphaBar) -> Latents:
    """What the network should predict: ε, x_0 or v. Nothing is divided, so it is right at zero SNR too."""
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "sample":
        return x0
    alpha, sigma = alpha_sigma(alpha_bar, x0)
    return alpha * noise - sigma * x0


def sample_posterior(
    keys: Key[Array, "b"],
    mean: Float[Array, "b h w c"],
    logvar: Float[Array, "b h w c"],
    scaling_factor: float,
) -> Float[Array, "b h w c"]:
    """Scaled latents, drawn from the autoencoder's posterior: scaling_factor · (mean + exp(logvar / 2) ε).

    Args:
        keys: one per example, so that its draw does not depend on the batch around it.
        mean: of the raw, unscaled latents.
        logvar: the logarithm of their variance.
        scaling_factor: of the autoencoder's config.
    """
    noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:], mean.dtype))(keys)
    return scaling_factor * (mean + jnp.exp(logvar / 2) * noise)
