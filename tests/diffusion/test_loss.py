# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax.diffusion import loss


@partial(jax.jit, static_argnames="n_instances")
def weighted_mse(prediction, target, **rest):
    return loss.weighted_loss(loss.example_errors(prediction, target), **rest)


def rows(getkey, instance: int, prior: int, weight: float = 1.0) -> dict:
    count = instance + prior
    prediction, target = jax.random.normal(getkey(), (2, count, 4, 4, 2))
    is_prior = jnp.arange(count) >= instance
    return {
        "prediction": prediction,
        "target": target,
        "weight": jnp.where(is_prior, weight, 1.0),
        "is_prior": is_prior,
    }


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 2.0])
def test_equation_of_the_paper(getkey, weight):
    """With as many class as instance examples: mean over these, plus λ times mean over those."""
    batch = rows(getkey, 3, 3, weight)
    error = np.square(np.asarray(batch["prediction"]) - np.asarray(batch["target"]))
    found = weighted_mse(**batch, n_instances=3)
    np.testing.assert_allclose(found.total, error[:3].mean() + weight * error[3:].mean(), rtol=1e-6)
    np.testing.assert_allclose(found.instance, error[:3].mean(), rtol=1e-6)
    np.testing.assert_allclose(found.prior, weight * error[3:].mean(), rtol=1e-6)


def test_rows_add_up_however_they_are_laid_out(getkey):
    batch = rows(getkey, 5, 3, 0.5)
    whole = weighted_mse(**batch, n_instances=5)
    order = np.random.default_rng(0).permutation(8)
    parts = [weighted_mse(**jax.tree.map(lambda x, i=i: x[i], batch), n_instances=5) for i in np.split(order, [2])]
    np.testing.assert_allclose(np.sum(parts, axis=0), whole, rtol=1e-6)


def test_weight_zero_leaves_the_prior_out_of_the_gradient(getkey):
    batch = rows(getkey, 2, 2, 0.0)
    grad = jax.grad(lambda p: weighted_mse(**{**batch, "prediction": p}, n_instances=2).total)(batch["prediction"])
    assert np.all(np.asarray(grad[:2]) != 0)
    np.testing.assert_array_equal(grad[2:], 0)


def test_is_summed_in_float32(getkey):
    batch = rows(getkey, 2, 0)
    rounded = {**batch, "prediction": batch["prediction"].astype(jnp.bfloat16)}
    widened = {**batch, "prediction": rounded["prediction"].astype(jnp.float32)}
    found = weighted_mse(**rounded, n_instances=2)
    assert found.total.dtype == jnp.float32
    np.testing.assert_array_equal(found.total, weighted_mse(**widened, n_instances=2).total)
