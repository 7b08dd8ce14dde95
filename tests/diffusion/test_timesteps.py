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


@pytest.mark.parametrize(
    ("law", "first", "stop", "bias", "scale"),
    [
        ("logit_normal", 500, T, -10.0, 1.0),
        ("logit_normal", 0, 3, 100.0, 1.0),
        ("logit_normal", 900, T, -100.0, 1e-3),
        ("logit_normal", 999, T, 0.0, 1e-3),
        ("sigmoid", 0, 500, 100.0, 1000.0),
        ("sigmoid", 500, T, 100.0, -1000.0),
    ],
)
def test_a_range_far_out_in_a_law_is_drawn_from_by_its_shape(law, first, stop, bias, scale):
    """Where float64 has no masses, but their ratios: by 60 digits of mpmath."""
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 60
    places = range(max(first, 0), stop)[:: max(1, (stop - first) // 50)]

    def mass(t):
        if law == "sigmoid":
            return 1 / (1 + mpmath.exp(-mpmath.mpf(scale) * (mpmath.mpf(t) / (T - 1) - mpmath.mpf(0.5) - bias)))
        logits = [
            mpmath.log(mpmath.mpf(s) / (T - s)) if 0 < s < T else (2 * (s > 0) - 1) * mpmath.inf for s in (t, t + 1)
        ]
        ends = [(logit - bias) / mpmath.mpf(scale) for logit in logits]
        below, above = ends if ends[0] > 0 else [-end for end in reversed(ends)]
        return (mpmath.erfc(below / mpmath.sqrt(2)) - mpmath.erfc(above / mpmath.sqrt(2))) / 2

    chosen = probabilities(law, T, first=first, stop=stop, bias=bias, scale=scale)
    assert chosen.sum() == pytest.approx(1)
    assert not chosen[:first].any()
    assert not chosen[stop:].any()
    largest = max(places, key=mass)
    expected = [float(mass(t) / mass(largest)) for t in places]
    np.testing.assert_allclose(chosen[places] / chosen[largest], expected, rtol=1e-6, atol=1e-300)
    drawn = np.asarray(draw_timesteps(jax.random.split(jax.random.key(0), 64), jnp.asarray(cumulative(chosen))))
    assert (first <= drawn.min(), drawn.max() < stop) == (True, True)


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
