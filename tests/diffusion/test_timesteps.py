# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax.diffusion.timesteps import cumulative, draw_timesteps, importance, probabilities, quantiles

T = 1000
CHOICES = {
    "uniform": {},
    "logit_normal": {"bias": 0.4, "scale": 0.8},
    "sigmoid": {"bias": -0.1, "scale": 6.0},
}


@pytest.mark.parametrize("law", CHOICES)
def test_what_is_drawn_has_the_probabilities(law):
    """All sums of probabilities within the Dvoretzky-Kiefer-Wolfowitz bound of one in a million."""
    n = 100_000
    chosen = probabilities(law, T, first=100, stop=900, **CHOICES[law])
    drawn = np.asarray(draw_timesteps(jax.random.split(jax.random.key(0), n), jnp.asarray(cumulative(chosen))))
    assert drawn.min() >= 100
    assert drawn.max() < 900
    found = np.cumsum(np.bincount(drawn, minlength=T)) / n
    assert np.abs(found - np.cumsum(chosen)).max() < np.sqrt(np.log(2e6) / (2 * n))


@pytest.mark.parametrize("law", CHOICES)
def test_a_range_is_the_law_given_the_range(law):
    whole, part = probabilities(law, T, **CHOICES[law]), probabilities(law, T, first=10, stop=500, **CHOICES[law])
    assert part.sum() == pytest.approx(1)
    np.testing.assert_array_equal(part[:10], 0)
    np.testing.assert_array_equal(part[500:], 0)
    np.testing.assert_allclose(part[10:500], whole[10:500] / whole[10:500].sum(), rtol=1e-12)


def test_logit_normal_is_the_law_of_a_sigmoid_of_normal_numbers():
    n = 400_000
    numbers = np.random.default_rng(0).normal(0.4, 0.8, n)
    timesteps = np.floor(T / (1 + np.exp(-numbers))).astype(int)
    found = np.cumsum(np.bincount(timesteps, minlength=T)) / n
    expected = np.cumsum(probabilities("logit_normal", T, bias=0.4, scale=0.8))
    assert np.abs(found - expected).max() < np.sqrt(np.log(2e6) / (2 * n))


def test_sigmoid_of_no_slope_is_uniform_and_of_much_is_a_step():
    np.testing.assert_allclose(probabilities("sigmoid", T, scale=0.0), 1 / T, rtol=1e-12)
    steep = probabilities("sigmoid", T, scale=1e5)
    np.testing.assert_allclose(steep[:499], 0, atol=1e-12)
    np.testing.assert_allclose(steep[501:], 2 / T, rtol=1e-3)


def test_importance_is_the_same_objective_on_average():
    chosen = probabilities("logit_normal", T)
    r = np.random.default_rng(0)
    weights, losses = r.uniform(0, 3, T), r.uniform(0, 1, T)
    new, constant = importance(chosen, weights)
    assert new.sum() == pytest.approx(1)
    assert np.sum(new * constant * losses) == pytest.approx(np.sum(chosen * weights * losses), rel=1e-12)


def test_a_single_timestep_is_always_drawn():
    chosen = probabilities("uniform", T, first=7, stop=8)
    drawn = draw_timesteps(jax.random.split(jax.random.key(0), 1000), jnp.asarray(cumulative(chosen)))
    assert set(np.asarray(drawn).tolist()) == {7}


def test_quantiles_have_as_much_before_as_behind():
    middles = (np.arange(16) + 0.5) / 16
    np.testing.assert_array_equal(quantiles(probabilities("uniform", T), 16), np.floor(T * middles))
    chosen = probabilities("sigmoid", T, first=200, scale=5.0)
    middle = quantiles(chosen, 1)[0]
    assert chosen[:middle].sum() <= 0.5 <= chosen[: middle + 1].sum()
    assert quantiles(chosen, 5).min() >= 200
