# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How much an error counts at each timestep, as a function of the signal-to-noise ratio SNR = ᾱ / (1 − ᾱ).

A weighting is a function ω(SNR) of the squared error in x_0, and so of any prediction's, because these are the same
error in other units:

    |x̂_0 − x_0|²  =  |ε̂ − ε|² / SNR  =  |v̂ − v|² / (SNR + 1)

    weighting    ω(SNR)                       of ε                   of v
    min_snr      min(SNR, γ)                  min(SNR, γ) / SNR      min(SNR, γ) / (SNR + 1)      arXiv 2303.09556
    debiased     SNR / √min(SNR, 1000)        1 / √min(SNR, 1000)    √SNR / (SNR + 1)             arXiv 2310.08442
    p2           SNR / (k + SNR)^γ            1 / (k + SNR)^γ        ᾱ / (k + SNR)^γ              arXiv 2204.00227

The limit of ``debiased`` is that of Kohya's sd-scripts. Tables are made on the host in float64.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float64

from dreambooth_jax.diffusion.schedule import PredictionType
from dreambooth_jax.errors import InputError

Weighting = Literal["none", "min_snr", "debiased", "p2"]
Snr = Float64[np.ndarray, "T"]

LARGEST_DEBIASED = 1000.0

_UNITS: Mapping[PredictionType, Callable[[Snr], Snr | float]] = {
    "epsilon": lambda snr: snr,
    "v_prediction": lambda snr: snr + 1,
    "sample": lambda snr: 1.0,
}
"""The squared error of a prediction, in squared errors of x_0."""


def signal_to_noise(alphas_cumprod: Float[np.ndarray, "T"]) -> Snr:
    """ᾱ / (1 − ᾱ): 0 where nothing but noise is left."""
    bar = alphas_cumprod.astype(np.float64)
    with np.errstate(divide="ignore"):
        return bar / (1 - bar)


def loss_weights(
    weighting: Literal["min_snr", "debiased", "p2"],
    snr: Snr,
    prediction_type: PredictionType,
    *,
    snr_gamma: float = 5.0,
    p2_gamma: float = 1.0,
    p2_k: float = 1.0,
    trained: Bool[np.ndarray, "T"] | None = None,
) -> Snr:
    """What the squared error of a prediction is multiplied by, at each timestep.

    Args:
        weighting: of the table above.
        snr: at each timestep, 0 and infinite included.
        prediction_type: whose error is weighted.
        snr_gamma: γ of ``min_snr``.
        p2_gamma, p2_k: γ and k of ``p2``.
        trained: timesteps that are ever trained; the others have weight 0. By default all are.

    Raises:
        InputError: where a weight is not finite.
    """
    omega: dict[str, Callable[[Snr], Snr]] = {
        "min_snr": lambda s: np.minimum(s, snr_gamma),
        "debiased": lambda s: s / np.sqrt(np.minimum(s, LARGEST_DEBIASED)),
        "p2": lambda s: s / (p2_k + s) ** p2_gamma,
    }
    bounded = np.clip(snr, 1e-150, 1e150)  # quotients have their limits there
    with np.errstate(over="ignore"):  # 1 / ∞ is what a large power leaves
        weights = omega[weighting](bounded) / _UNITS[prediction_type](bounded)
    weights = weights if trained is None else np.where(trained, weights, 0)
    if weights.max() > np.finfo(np.float32).max:
        worst = int(weights.argmax())
        raise InputError(
            f"objective.weighting {weighting} of a model that predicts {prediction_type} is infinite at timestep "
            f"{worst}, where the signal-to-noise ratio is {snr[worst]:g}: use min_snr"
        )
    return weights
