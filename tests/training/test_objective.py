# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Objectives beside a loop in PyTorch, with λ other than 1; and what they are where they do nothing."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from dreambooth_jax import rng
from dreambooth_jax.config import load_config
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.errors import InputError
from dreambooth_jax.models.condition import Conditioner
from dreambooth_jax.models.families import SD
from dreambooth_jax.prepare.objective import objective_values
from dreambooth_jax.training.objective import DenoisingObjective

N, LAMBDA = 3, 0.3
WEIGHTS = np.array([1.0, 2.5, 0.0, 1.0, 0.5, 3.0])  # of pictures: those of the subject, those of the class
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


class Toy(nn.Module):
    """Says something about the picture, the time and the text."""

    @nn.compact
    def __call__(self, x, timesteps, condition):
        time = (timesteps / 1000)[:, None].astype(x.dtype)
        told = nn.Dense(4, name="told", param_dtype=x.dtype)(jnp.concatenate([time, condition.states[:, 0]], axis=1))
        return nn.Dense(4, name="seen", param_dtype=x.dtype)(x) + told[:, None, None]


def params(dtype):
    r = np.random.default_rng(0)
    shapes = {"told": (4, 4), "seen": (4, 4)}
    return {"unet": {name: {"kernel": r.normal(size=s), "bias": r.normal(size=4)} for name, s in shapes.items()}}


def batch_at(step, masks=False):
    r = np.random.default_rng(step)
    is_prior = np.arange(2 * N) >= N
    masked = {"position_weight": np.random.default_rng(99 + step).uniform(size=(2 * N, 4, 4))} if masks else {}
    return masked | {
        "mean": r.normal(size=(2 * N, 4, 4, 4)),
        "logvar": r.normal(size=(2 * N, 4, 4, 4)),
        "condition/states": r.normal(size=(2 * N, 1, 3)),
        "weight": np.where(is_prior, LAMBDA, 1.0) * WEIGHTS,
        "is_prior": is_prior,
        "index": np.arange(2 * N, dtype=np.int32),
    }


def objective(*overrides, prediction="epsilon", zero_snr=False, n_instances=N, **changes):
    config = load_config(None, [f"objective.{one}" for one in overrides]).objective
    raw = {**SCHEDULE, "prediction_type": prediction, "rescale_betas_zero_snr": zero_snr}
    schedule = NoiseSchedule.from_config(raw)
    values = objective_values(config, schedule)
    return DenoisingObjective(
        unet=Toy(),
        conditioner=Conditioner((), SD.condition),
        schedule=schedule,
        scaling_factor=0.18215,
        n_instances=n_instances,
        noising=values.noising,
        scoring=values.scoring,
        **changes,
    )


def ours(one, steps=4, masks=False):
    """(losses, draws, parameters) of plain gradient descent."""
    weights, root = jax.tree.map(jnp.asarray, params(None)), rng.root_key(3)
    losses, draws = [], []
    for step in range(steps):
        batch = {name: jnp.asarray(value) for name, value in batch_at(step, masks).items()}
        draws.append(jax.tree.map(np.asarray, one.draw(batch, root_key=root, step=step)))
        run = jax.value_and_grad(
            lambda p, batch=batch, step=step: one(p, batch, root_key=root, step=jnp.int32(step))[0]
        )
        loss, grads = run(weights)
        weights = optax.apply_updates(weights, jax.tree.map(lambda g: -0.05 * g, grads))
        losses.append(float(loss))
    return losses, draws, weights


def torch_cost(torch, error, name, delta):
    if name == "huber":
        return 2 * delta * (torch.sqrt(error**2 + delta**2) - delta)
    if name == "smooth_l1":
        return 2 * (torch.sqrt(error**2 + delta**2) - delta)
    return error**2


def torch_weight(snr, name, prediction):
    """As diffusers' and Kohya's scripts have them, of one row, after the divisors of their authors' papers."""
    clamped = snr.clamp(max=5.0)
    if name == "min_snr":
        return {"epsilon": clamped / snr, "v_prediction": clamped / (snr + 1), "sample": clamped}[prediction]
    if name == "debiased":
        of_epsilon = 1 / snr.clamp(max=1000).sqrt()
        return of_epsilon * {"epsilon": 1, "v_prediction": snr / (snr + 1), "sample": snr}[prediction]
    return 1.0


def theirs(draws, *, prediction, weighting="none", loss="mse", huber="snr", masks=False):
    torch = pytest.importorskip("torch")
    bars = torch.tensor(NoiseSchedule.from_config(SCHEDULE).alphas_cumprod.astype(np.float64))
    leaves = {
        f"{k}/{n}": torch.tensor(v, requires_grad=True) for k, d in params(None)["unet"].items() for n, v in d.items()
    }
    losses = []
    for step, draw in enumerate(draws):
        batch = {name: torch.tensor(value) for name, value in batch_at(step, masks).items()}
        x0, noise = torch.tensor(draw.latents), torch.tensor(draw.noise)
        added = noise if draw.added is None else torch.tensor(draw.added)
        total = 0.0
        for row in range(2 * N):
            t = int(draw.timesteps[row])
            alpha, sigma = bars[t].sqrt(), (1 - bars[t]).sqrt()
            told = torch.cat([torch.tensor([t / 1000]), batch["condition/states"][row, 0]])
            x = alpha * x0[row] + sigma * added[row]
            out = x @ leaves["seen/kernel"] + leaves["seen/bias"] + told @ leaves["told/kernel"] + leaves["told/bias"]
            target = {
                "epsilon": noise[row],
                "v_prediction": alpha * noise[row] - sigma * x0[row],
                "sample": x0[row],
            }[prediction]
            snr = bars[t] / (1 - bars[t])
            delta = 0.9 / (1 + snr**-0.5) ** 2 + 0.1 if huber == "snr" else 0.1 ** (t / 1000)
            cost = torch_cost(torch, out - target, loss, delta)
            if masks:
                cost = cost * batch["position_weight"][row][..., None]
            weight = WEIGHTS[row] * (LAMBDA if row >= N else 1.0) * torch_weight(snr, weighting, prediction)
            total = total + weight * cost.mean() / N
        total.backward()
        with torch.no_grad():
            for leaf in leaves.values():
                leaf -= 0.05 * leaf.grad
                leaf.grad = None
        losses.append(float(total.detach()))
    return losses, {name: leaf.detach().numpy() for name, leaf in leaves.items()}


CASES = [
    ("epsilon", ("weighting=min_snr",), {"weighting": "min_snr"}),
    ("v_prediction", ("weighting=min_snr",), {"weighting": "min_snr"}),
    ("sample", ("weighting=min_snr",), {"weighting": "min_snr"}),
    ("epsilon", ("weighting=min_snr",), {"weighting": "min_snr", "masks": True}),
    ("epsilon", ("weighting=debiased",), {"weighting": "debiased"}),
    ("v_prediction", ("weighting=debiased",), {"weighting": "debiased"}),
    ("epsilon", ("loss=huber",), {"loss": "huber"}),
    ("v_prediction", ("loss=smooth_l1", "huber_schedule=exponential"), {"loss": "smooth_l1", "huber": "exponential"}),
    ("epsilon", ("noise_offset=0.5", "input_perturbation=0.7"), {}),
    ("v_prediction", ("noise_offset=0.5", "input_perturbation=0.7", "timesteps=logit_normal"), {}),
]


@pytest.mark.parity
@pytest.mark.parametrize(("prediction", "settings", "told"), CASES)
def test_four_steps_are_those_of_a_loop_in_pytorch(prediction, settings, told):
    with jax.enable_x64(True):
        losses, draws, found = ours(objective(*settings, prediction=prediction), masks=told.get("masks", False))
        expected_losses, expected = theirs(draws, prediction=prediction, **told)
        np.testing.assert_allclose(losses, expected_losses, rtol=1e-6)  # ᾱ in float64 there, in float32 here
        for name, leaf in expected.items():
            layer, part = name.split("/")
            np.testing.assert_allclose(found["unet"][layer][part], leaf, rtol=1e-6, err_msg=name)


def both_terms(one, batch):
    draws = one.draw(batch, root_key=rng.root_key(0), step=0)
    _, terms = one.loss(jax.tree.map(jnp.asarray, params(None)), batch, draws)
    return float(terms["instance_loss"]), float(terms["prior_loss"])


def single():
    return {
        name: jnp.asarray(value, jnp.float32 if value.dtype == np.float64 else None)
        for name, value in batch_at(0).items()
    }


def test_large_gamma_is_plain():
    plain = both_terms(objective(), single())
    np.testing.assert_allclose(both_terms(objective("weighting=min_snr", "snr_gamma=1e30"), single()), plain, rtol=1e-6)
    np.testing.assert_allclose(both_terms(objective("weighting=p2", "p2_gamma=0"), single()), plain, rtol=1e-6)
    bounded = both_terms(objective("weighting=min_snr", "snr_gamma=0.01"), single())
    assert all(a < b for a, b in zip(bounded, plain))  # both terms are weighted


def test_a_weight_of_an_example_is_a_factor():
    batch = single()
    twice = {**batch, "weight": batch["weight"] * jnp.asarray([2.0] * N + [1.0] * N)}
    one = objective("weighting=min_snr", "loss=huber")
    (instance, prior), (doubled, same) = both_terms(one, batch), both_terms(one, twice)
    assert doubled == pytest.approx(2 * instance, rel=1e-6)
    assert same == pytest.approx(prior, rel=1e-6)


def gradient(one, batch, draws):
    return jax.grad(lambda p: one.loss(p, batch, draws)[0])(jax.tree.map(jnp.asarray, params(None)))


def test_weights_of_pictures_are_factors_of_their_gradients():
    """Of each alone: the sum is divided by the number of pictures, never by their weights."""
    with jax.enable_x64(True):
        one, batch = objective("weighting=min_snr", "loss=huber"), batch_at(0, masks=True)
        batch = {name: jnp.asarray(value) for name, value in batch.items()}
        draws = one.draw(batch, root_key=rng.root_key(0), step=0)
        alone = [gradient(one, {**batch, "weight": jnp.eye(2 * N)[row]}, draws) for row in range(2 * N)]
        weights = [1.0, 2.0, 0.0, LAMBDA, 0.5 * LAMBDA, 0.0]
        expected = jax.tree.map(lambda *g: sum(w * part for w, part in zip(weights, g)), *alone)
        found = gradient(one, {**batch, "weight": jnp.asarray(weights)}, draws)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15), found, expected)


def test_a_picture_without_weight_gives_nothing():
    """Not a bit depends on what is on it."""
    one, batch = objective("weighting=min_snr"), single()
    assert WEIGHTS[2] == 0
    other = {**batch, "mean": batch["mean"].at[2].add(50.0)}
    found = [gradient(one, some, one.draw(some, root_key=rng.root_key(0), step=0)) for some in (batch, other)]
    jax.tree.map(np.testing.assert_array_equal, *found)


def draws_of(one, n=4000):
    wide = {"mean": jnp.zeros((n, 2, 2, 3)), "logvar": jnp.zeros((n, 2, 2, 3)), "index": jnp.arange(n)}
    return jax.tree.map(np.asarray, one.draw(wide, root_key=rng.root_key(0), step=0))


def test_offset_is_one_number_for_a_channel_and_belongs_to_the_target():
    plain, offset = draws_of(objective()), draws_of(objective("noise_offset=0.5"))
    difference = offset.noise - plain.noise
    assert offset.added is None
    np.testing.assert_allclose(difference - difference[:, :1, :1], 0, atol=1e-6)
    assert difference.std() == pytest.approx(0.5, rel=0.05)
    assert np.abs(np.corrcoef(difference[:, 0, 0].T) - np.eye(3)).max() < 0.1


def test_perturbation_is_independent_noise_that_only_the_input_has():
    """arXiv 2301.11706, equation 6: y = α x_0 + σ (ε + γ ξ), target ε."""
    plain, perturbed = draws_of(objective()), draws_of(objective("input_perturbation=0.2"))
    np.testing.assert_array_equal(perturbed.noise, plain.noise)
    more = (perturbed.added - perturbed.noise).ravel()
    assert more.std() == pytest.approx(0.2, rel=0.05)
    assert abs(np.corrcoef(more, plain.noise.ravel())[0, 1]) < 0.03


def test_other_draws_stay_where_a_setting_adds_its_own():
    """Streams have names: offset and perturbation move neither latents nor timesteps."""
    plain, other = draws_of(objective()), draws_of(objective("noise_offset=0.1", "input_perturbation=0.2"))
    np.testing.assert_array_equal(plain.latents, other.latents)
    np.testing.assert_array_equal(plain.timesteps, other.timesteps)


def test_importance_has_the_expectation_of_the_weights():
    """Of a loss that depends on the timestep alone: Σ p w f, by many draws of each."""
    n, f = 40_000, np.sin(np.arange(1000) / 100) + 2
    means = []
    for settings in (("weighting=min_snr",), ("weighting=min_snr", "importance=true")):
        one = objective(*settings, prediction="v_prediction")
        timesteps = draws_of(one, n).timesteps
        weight = np.asarray(one.scoring.weight(jnp.ones(n), jnp.asarray(timesteps)))
        terms = weight * f[timesteps]
        means.append((terms.mean(), terms.std() / np.sqrt(n)))
    (a, da), (b, db) = means
    assert abs(a - b) < 5 * np.hypot(da, db)
    assert db < da


def test_zero_terminal_snr_is_trained_with_finite_numbers():
    one = objective("weighting=min_snr", "loss=huber", "min_timestep=998", prediction="v_prediction", zero_snr=True)
    terms = both_terms(one, single())
    assert np.isfinite(terms).all()
    plain = objective("min_timestep=999", prediction="v_prediction", zero_snr=True)
    draws = plain.draw(single(), root_key=rng.root_key(0), step=0)
    np.testing.assert_array_equal(draws.timesteps, 999)
    assert all(term > 0 for term in both_terms(plain, single()))


@pytest.mark.parametrize("importance", ["true", "false"])
@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        (("weighting=p2", "p2_gamma=100", "p2_k=1e6"), {}),  # k^-100 is less than any number
        (("weighting=p2", "p2_gamma=100", "max_timestep=5"), {}),  # so is SNR^-100, where there is hardly any noise
        (("weighting=min_snr", "min_timestep=999"), {"prediction": "v_prediction", "zero_snr": True}),
    ],
)
def test_an_objective_that_weighs_every_timestep_0_is_refused(settings, changes, importance):
    with pytest.raises(
        InputError, match=r"is 0 at every timestep that is trained, so nothing would be learned"
    ) as found:
        objective(*settings, f"importance={importance}", **changes)
    assert "\n" not in str(found.value)


def test_weights_that_are_0_but_at_one_timestep_draw_that_one():
    """Zero terminal SNR leaves min_snr no weight at the last of two timesteps."""
    one = objective(
        *("weighting=min_snr", "importance=true", "min_timestep=998"), prediction="v_prediction", zero_snr=True
    )
    np.testing.assert_array_equal(draws_of(one, 200).timesteps, 998)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("max_timestep=1001",), "objective.max_timestep is 1001, but the model has 1000 timesteps"),
        (("min_timestep=1000",), "objective.min_timestep is 1000, but the model has 1000 timesteps"),
    ],
)
def test_a_range_beyond_the_model_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        objective(*settings)


def test_defaults_have_no_tables():
    values = objective_values(load_config().objective, NoiseSchedule.from_config(SCHEDULE))
    assert SimpleNamespace(**vars(values.scoring)) == SimpleNamespace(
        weights=None, constant=1.0, penalty=None, deltas=None
    )
    assert values.noising.cumulative is None
