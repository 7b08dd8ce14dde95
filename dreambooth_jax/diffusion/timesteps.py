# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Which timesteps are trained, and how often: a probability for each, drawn from by its inverse sums.

    uniform        1
    logit_normal   of t / T with logit(t / T) ~ N(bias, scale²)     scale > 0; arXiv 2403.03206
    sigmoid        1 / (1 + exp(−scale · (t / (T − 1) − 1/2 − bias)))   OneTrainer's; a scale of 0 is uniform

all within first ≤ t < stop. Tables are made on the host in float64, of logarithms, so that a range far out in a law's
tail has its shape.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int, Key
from scipy.special import log_ndtr

Law = Literal["uniform", "logit_normal", "sigmoid"]
Probabilities = Float64[np.ndarray, "T"]


def probabilities(
    law: Law, count: int, *, first: int = 0, stop: int | None = None, bias: float = 0.0, scale: float = 1.0
) -> Probabilities:
    """The probability of each timestep.

    Args:
        law: of the table above.
        count: T.
        first, stop: the range; by default all.
        bias, scale: of the law.
    """
    log_mass: dict[Law, Callable[[], np.ndarray]] = {
        "uniform": lambda: np.zeros(count),
        "logit_normal": lambda: _logit_normal(count, bias, scale),
        "sigmoid": lambda: -np.logaddexp(0, -scale * (np.linspace(-0.5, 0.5, count) - bias)),
    }
    trained = slice(first, stop)
    logs = log_mass[law]()[trained]
    found = np.zeros(count)
    found[trained] = np.exp(logs - logs.max())
    return found / found.sum()


def _logit_normal(count: int, mean: float, deviation: float) -> np.ndarray:
    """log(Φ(b) − Φ(a)) of each timestep, on the side of 0 where Φ is small."""
    inner = np.arange(1, count) / count
    bounds = np.concatenate([[-np.inf], (np.log(inner / (1 - inner)) - mean) / deviation, [np.inf]])
    a, b = bounds[:-1], bounds[1:]
    a, b = np.where(a > 0, -b, a), np.where(a > 0, -a, b)
    larger = log_ndtr(b)
    return larger + np.log(-np.expm1(log_ndtr(a) - larger))


def importance(chosen: Probabilities, weights: Float64[np.ndarray, "T"]) -> tuple[Probabilities, float]:
    """(probabilities in proportion to ``chosen`` · ``weights``, the one weight of all): the same loss on average."""
    product = chosen * weights
    return product / product.sum(), float(product.sum())


def draw_timesteps(keys: Key[Array, "b"], cumulative: Float[Array, "T"]) -> Int[Array, "b"]:
    """A timestep for each key, int32.

    Args:
        keys: one per example.
        cumulative: sums of the probabilities up to and with each timestep; the last is 1.
    """
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))(keys)
    return jnp.searchsorted(cumulative, uniform.astype(cumulative.dtype), side="right").astype(jnp.int32)


def cumulative(chosen: Probabilities) -> Float[np.ndarray, "T"]:
    """What :func:`draw_timesteps` draws from, float32; a timestep of probability 0 is never drawn."""
    sums = np.cumsum(chosen)
    return (sums / sums[-1]).astype(np.float32)


def quantiles(chosen: Probabilities, count: int) -> Int[np.ndarray, "n"]:
    """Timesteps in the middles of ``count`` stretches of equal probability, int32."""
    middles = (np.arange(count) + 0.5) / count
    return np.searchsorted(np.cumsum(chosen), middles * chosen.sum(), side="right").astype(np.int32)
