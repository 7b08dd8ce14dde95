# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The teacher prior: class rows whose target is what the network said before training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreambooth_jax import rng
from dreambooth_jax.adapters import TEACHER, full, with_teacher
from dreambooth_jax.data.batches import Batches, ConceptTables
from dreambooth_jax.data.examples import ExampleTable
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.target import Target
from dreambooth_jax.training.parallel import make_mapper
from dreambooth_jax.training.state import init_state
from dreambooth_jax.training.step import TrainStep
from tests.training.test_objective import SCHEDULE, objective, params

N, LAMBDA, RATE, STEPS = 8, 0.3, 0.05, 4


def mixture(stretches=1):
    """Three photos; at class rows they come with one of two other texts."""
    r = np.random.default_rng(0)
    mean, logvar = r.normal(size=(2, 3, 2, 4, 4, 4)).astype(np.float32)
    told, asked = r.normal(size=(2, 2, 1, 3)).astype(np.float32)
    index = np.array([0, 1, 0])

    def table(rows, teacher):
        text = {"condition/states": rows, "teacher/condition/states": teacher}
        return ExampleTable(mean=mean, logvar=logvar - 3, text=text, text_index=index)

    one = ConceptTables(
        name="",
        instance=[table(told, np.zeros_like(told))],
        prior=None,
        prior_weight=LAMBDA,
        lessons=[table(asked, asked * 0.5)],
    )
    return Batches(rows=N, with_prior=True, seed=0, stretches=stretches).of([one])


def sgd_step(*settings, accumulation=1, halves=False, prediction="epsilon"):
    adapter = with_teacher(full("unet/.*"))
    frozen, trainable = adapter.init(rng.root_key(0), jax.tree.map(jnp.asarray, params(None)))
    optimizers = {"unet": optax.sgd(RATE)}
    one = objective(*settings, prediction=prediction, n_instances=N, halves=halves)
    step = TrainStep(
        objective=one,
        adapter=adapter,
        optimizers=optimizers,
        active=("unet",),
        accumulation=accumulation,
        clip_norm=None,
        networks=("unet", TEACHER),
    )
    return step, frozen, init_state(trainable, optimizers, with_ema=False)


def run(mapper=None, *, shares=1, **options):
    """(losses, parts, parameters)."""
    mapper = mapper or make_mapper("auto", Target.of(jax.devices()[:1]))
    step, frozen, state = sgd_step(**options)
    mapped, state, frozen, data = mapper.map(step), mapper.place(state), mapper.place(frozen), mixture(shares)
    losses = []
    for number in range(STEPS):
        batch = data.batch_at(number, mapper.rows(data.rows))
        state, metrics = mapped(state, frozen, mapper.place_batch(batch), rng.root_key(3))
        losses.append([float(metrics[name]) for name in ("loss", "instance_loss", "prior_loss")])
    return np.array(losses), jax.tree.map(np.asarray, mapper.logical(state).trainable["unet"])


def predicted(leaves, x, t, states):
    import torch

    told = torch.cat([torch.tensor([t / 1000]), states[0]])
    return x @ leaves["seen/kernel"] + leaves["seen/bias"] + told @ leaves["told/kernel"] + leaves["told/bias"]


def theirs(prediction):
    """The loop in PyTorch, row by row, with ε and t of ours."""
    torch = pytest.importorskip("torch")
    bars = torch.tensor(NoiseSchedule.from_config(SCHEDULE).alphas_cumprod.astype(np.float64))
    start = {f"{k}/{n}": torch.tensor(v) for k, d in params(None)["unet"].items() for n, v in d.items()}
    leaves = {name: leaf.clone().requires_grad_(True) for name, leaf in start.items()}
    one, losses = objective(prediction=prediction, n_instances=N), []
    for number in range(STEPS):
        batch = mixture().batch_at(number)
        placed = {name: jnp.asarray(rows) for name, rows in batch.items()}
        draw = jax.tree.map(
            lambda x: torch.tensor(np.asarray(x)).double() if x.ndim > 1 else np.asarray(x),
            one.draw(placed, root_key=rng.root_key(3), step=number),
        )
        parts = [torch.tensor(0.0), torch.tensor(0.0)]
        for row in range(2 * N):
            t = int(draw.timesteps[row])
            alpha, sigma = bars[t].sqrt(), (1 - bars[t]).sqrt()
            x0, noise = draw.latents[row], draw.noise[row]
            x = alpha * x0 + sigma * noise
            target = alpha * noise - sigma * x0 if prediction == "v_prediction" else noise
            if row >= N:  # the frozen model, with the states of the frozen text encoder
                asked = torch.tensor(batch["teacher/condition/states"][row]).double()
                with torch.no_grad():
                    target = predicted(start, x, t, asked)
            states = torch.tensor(batch["condition/states"][row]).double()
            error = ((predicted(leaves, x, t, states) - target) ** 2).mean()
            parts[row >= N] = parts[row >= N] + (LAMBDA if row >= N else 1.0) * error / N
        (parts[0] + parts[1]).backward()
        with torch.no_grad():
            for leaf in leaves.values():
                leaf -= RATE * leaf.grad
                leaf.grad = None
        losses.append([float(part.detach()) for part in (parts[0] + parts[1], *parts)])
    return np.array(losses), {name: leaf.detach().numpy() for name, leaf in leaves.items()}


@pytest.mark.parity
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_four_steps_are_those_of_a_loop_in_pytorch(prediction):
    with jax.enable_x64(True):
        losses, found = run(prediction=prediction)
        expected_losses, expected = theirs(prediction)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)  # latents and noise are drawn in float32
    for name, leaf in expected.items():
        layer, part = name.split("/")
        np.testing.assert_allclose(found[layer][part], leaf, rtol=1e-5, atol=1e-6, err_msg=name)


LAYOUTS = {
    "halves": ({}, {"halves": True}),
    "micro-batches": ({}, {"halves": True, "accumulation": 4}),
    "pmap, shared out": ({"parallel": "pmap", "devices": 8}, {"halves": True, "shares": 8}),
    "pmap, as they are": ({"parallel": "pmap", "devices": 8}, {}),
    "fsdp, shared out": ({"parallel": "fsdp", "devices": 4}, {"halves": True, "shares": 4, "accumulation": 2}),
    "fsdp, as they are": ({"parallel": "fsdp", "devices": 4}, {"accumulation": 2}),
}


@pytest.fixture(scope="module")
def alone():
    return run()


@pytest.mark.parametrize("name", LAYOUTS)
def test_neither_devices_nor_micro_batches_matter(alone, name):
    place, options = LAYOUTS[name]
    mapper = make_mapper(place["parallel"], Target.of(jax.devices()[: place["devices"]])) if place else None
    losses, found = run(mapper, **options)
    np.testing.assert_allclose(losses, alone[0], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(alone[1])):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_before_the_first_step_the_class_term_is_nothing_where_texts_are_the_same():
    """The model says what it says."""
    step, frozen, state = sgd_step()
    batch = {name: jnp.asarray(rows) for name, rows in mixture().batch_at(0).items()}
    same = batch | {"teacher/condition/states": batch["condition/states"]}
    _, metrics = step(state, frozen, same, rng.root_key(0))
    assert float(metrics["prior_loss"]) == 0
    _, metrics = step(state, frozen, batch, rng.root_key(0))
    assert float(metrics["prior_loss"]) > 0


def test_no_gradient_reaches_the_teacher():
    step, frozen, state = sgd_step("weighting=min_snr")
    batch = {name: jnp.asarray(rows) for name, rows in mixture().batch_at(0).items()}

    def loss(kept):
        composed = step.adapter.compose(frozen | {TEACHER: kept}, state.trainable)
        return step.objective(composed, batch, root_key=rng.root_key(0), step=jnp.int32(0))[0]

    for leaf in jax.tree.leaves(jax.grad(loss)(frozen[TEACHER])):
        np.testing.assert_array_equal(leaf, 0)


@pytest.mark.parametrize("shares", [2, 4, 8])
def test_shared_out_rows_are_the_same_rows_with_their_numbers(shares):
    plain, shared = mixture().batch_at(5), mixture(shares).batch_at(5)
    order = np.argsort(shared["index"])
    for name, rows in plain.items():
        np.testing.assert_array_equal(shared[name][order], rows)
    own = shared["is_prior"].reshape(shares, -1)
    half = own.shape[1] // 2
    assert not own[:, :half].any()
    assert own[:, half:].all()
    parts = [mixture(shares).batch_at(5, slice(i, i + 4)) for i in range(0, 2 * N, 4)]
    for name in shared:
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), shared[name])


def test_a_teacher_comes_with_the_size_of_the_photos():
    """Photos of two sizes, a subject with lessons and one without where there is one size."""
    r = np.random.default_rng(0)

    def table(height, count):
        mean = r.normal(size=(count, 1, height, 4, 4)).astype(np.float32)
        return ExampleTable(mean=mean, logvar=mean, text={"t": np.zeros((1, 2))}, text_index=np.zeros(count, np.int64))

    tables = [table(4, 3), table(8, 1)]
    one = ConceptTables(name="", instance=tables, prior=None, prior_weight=LAMBDA, lessons=tables)
    data = Batches(rows=4, with_prior=True, seed=0).of([one])
    heights = []
    for step in range(12):
        batch = data.batch_at(step)
        assert len(batch["index"]) == data.rows == 8
        assert batch["is_prior"].sum() == 4
        heights.append(batch["mean"].shape[1])
    assert heights.count(8) == 3
    other = ConceptTables(name="b", instance=[table(4, 3)], prior=None, prior_weight=0.0)
    both = [ConceptTables(name="a", instance=[tables[0]], prior=None, prior_weight=LAMBDA, lessons=[tables[0]]), other]
    weights = Batches(rows=4, with_prior=True, seed=0).of(both).batch_at(0)
    np.testing.assert_allclose(weights["weight"][weights["is_prior"]], LAMBDA / 2)
