# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The loss on held-out pictures: of which numbers it is the mean, that it stays the same, and what its history says."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from dreambooth_jax import rng
from dreambooth_jax.checks import check_config
from dreambooth_jax.config import load_config
from dreambooth_jax.config.concepts import concepts_of
from dreambooth_jax.data.examples import ExampleTable
from dreambooth_jax.data.sources import Photo
from dreambooth_jax.errors import InputError
from dreambooth_jax.prepare.held_out import split_photos
from dreambooth_jax.target import Target
from dreambooth_jax.training.checkpoint import Checkpoints, best_step, complete_steps
from dreambooth_jax.training.parallel.sharding import ROWS, lower_rows, map_rows
from dreambooth_jax.training.validation import LossHistory, loss_of_rows, validation_batches, validation_loss
from dreambooth_jax.trees import shapes
from tests.training import toy
from tests.training.test_objective import objective, params

TIMES = np.array([100, 500, 900], np.int32)


def table(count=4, height=4, seed=0):
    r = np.random.default_rng(seed)
    mean, logvar = r.normal(size=(2, count, 2, height, 4, 4)).astype(np.float32)
    states = r.normal(size=(2, 1, 3)).astype(np.float32)
    return ExampleTable(
        mean=mean, logvar=logvar - 3, text={"condition/states": states}, text_index=np.arange(count) % 2
    )


def loss(tables, rows, *settings, weights=None, seed=0):
    one = objective(*settings)
    batches = list(validation_batches(tables, TIMES, rows=rows))
    count = int(sum(batch["weight"].sum() for batch in batches))
    weights = jax.tree.map(jnp.asarray, params(None)) if weights is None else weights
    placed = [{name: jnp.asarray(values) for name, values in batch.items()} for batch in batches]
    program = jax.jit(partial(validation_loss, one, count=count))
    return sum(float(program(weights, batch, rng.root_key(seed))) for batch in placed)


def test_every_picture_is_seen_once_at_every_timestep():
    tables = [table(4), table(1, height=8)]
    batches = list(validation_batches(tables, TIMES, rows=5))
    assert {batch["mean"].shape[:2] for batch in batches} == {(5, 4), (5, 8)}
    real = [(i, t) for b in batches for i, t, w in zip(b["index"].tolist(), b["timesteps"].tolist(), b["weight"]) if w]
    assert sorted(i for i, _ in real) == list(range(15))
    assert sorted(t for _, t in real) == sorted(TIMES.tolist() * 5)


@pytest.mark.parametrize("rows", [5, 16])
def test_the_size_of_batches_does_not_matter(rows):
    assert loss([table()], rows) == pytest.approx(loss([table()], 4), rel=1e-5)


@pytest.mark.parametrize("whole", [True, False])
def test_devices_share_its_rows_whether_weights_are_whole_or_in_parts(whole):
    mesh, one, weights = Target.of(jax.devices()[:4]).mesh, objective(), jax.tree.map(jnp.asarray, params(None))
    batches = list(validation_batches([table()], TIMES, rows=8))
    placed = weights if whole else jax.device_put(weights, NamedSharding(mesh, PartitionSpec(ROWS)))
    program = loss_of_rows(one, 12)
    each = [map_rows(mesh, program, (), placed, batch, rng.root_key(0)) for batch in batches]
    assert [losses.shape for losses in each] == [(4,)] * 2
    assert float(sum(map(jnp.sum, each))) == pytest.approx(loss([table()], 12), rel=1e-5)
    compiled = lower_rows(mesh, program, (), placed, shapes(batches[0]), rng.root_key(0)).compile().as_text()
    assert ("all-gather" in compiled) is not whole


def test_it_is_the_mean_loss_at_those_timesteps():
    """Of the objective's own weights, with noise of its own stream."""
    one = objective("weighting=min_snr")
    (batch,) = validation_batches([table()], TIMES, rows=12)
    placed = {name: jnp.asarray(values) for name, values in batch.items()}
    draws = one.draw(placed, root_key=rng.stream(rng.root_key(0), "validation"), step=0)
    weights, terms = jax.tree.map(jnp.asarray, params(None)), []
    for row in range(12):
        alone = {name: values[row : row + 1] for name, values in placed.items()}
        some = jax.tree.map(lambda x, row=row: x[row : row + 1], draws)._replace(timesteps=alone["timesteps"])
        terms.append(float(one.loss(weights, alone, some)[0]) * one.n_instances)
    assert loss([table()], 12, "weighting=min_snr") == pytest.approx(np.mean(terms), rel=1e-5)


def test_it_changes_with_the_weights_alone():
    assert loss([table()], 4) == loss([table()], 4)
    moved = jax.tree.map(lambda leaf: jnp.asarray(leaf) + 0.01, params(None))
    assert loss([table()], 4, weights=moved) != loss([table()], 4)
    perturbed = loss([table()], 4, "input_perturbation=0.5")
    assert perturbed == loss([table()], 4)  # that is for training


def history(losses, trained):
    numbered = [[(step, float(loss)) for step, loss in enumerate(some)] for some in (losses, trained)]
    return LossHistory(losses=numbered[0], trained=numbered[1])


@pytest.mark.parametrize(
    ("losses", "trained", "warns"),
    [
        ([3, 2, 1, 1.1, 1.2, 1.3], [6, 5, 4, 3, 2, 1], True),
        ([3, 2, 1, 1.1, 1.2, 1.3], [1, 1, 1, 1, 1, 1], False),  # nothing is learned by heart
        ([3, 2, 1, 1.1, 0.9, 1.3], [6, 5, 4, 3, 2, 1], False),  # a new best
        ([3, 2, 1, 1.1, 1.2], [6, 5, 4, 3, 2], False),  # too early to say
        ([6, 5, 4, 3, 2, 1], [6, 5, 4, 3, 2, 1], False),
    ],
)
def test_a_run_that_learns_by_heart_is_told_once(losses, trained, warns):
    one = history(losses, trained)
    found = one.overfits()
    assert bool(found) is warns
    if warns:
        assert "lowest at step 2 (1)" in found
        assert one.overfits() is None


def split(holdout, count=5):
    config = load_config(None, ["data.class_noun=dog", "data.instance_images=photos", f"validation.holdout={holdout}"])
    photos = tuple(Photo(name=str(i), prompt="", digest=str(i), file=b"") for i in range(count))
    kept, held = split_photos(config, concepts_of(config)[0], photos)
    return [int(one.name) for one in kept], [int(one.name) for one in held]


@pytest.mark.parametrize(("holdout", "count"), [(0, 0), (1, 1), (2, 2), (0.2, 1), (0.01, 1), (0.5, 2)])
def test_photos_are_held_out_for_good(holdout, count):
    kept, held = split(holdout)
    assert len(held) == count
    assert sorted(kept + held) == [0, 1, 2, 3, 4]
    assert split(holdout) == (kept, held)


def test_no_photo_left_to_train_on_is_refused():
    with pytest.raises(InputError, match="would leave none of the 5 photos in photos to train on"):
        split(5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["checkpoint.keep_best=true"], "val_loss needs a validation loss: set validation.holdout"),
        (["validation.holdout=1.5"], "must be a whole number of photos"),
        (["validation.holdout=1", "validation.images=x"], "both given: leave one out"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        check_config(load_config(None, ["data.class_noun=dog", *settings]))


def test_the_best_checkpoint_stays(tmp_path):
    _, _, state = toy.setup()
    losses = [[1, 3.0], [2, 1.0], [3, 2.0], [4, 1.5]]
    known = []
    checkpoints = Checkpoints(tmp_path, best=lambda: min(known, key=lambda one: one[1])[0] if known else -1)
    for step, value in losses:
        known.append([step, value])
        checkpoints.save(state, step=step, meta={"validation": list(known)})
        checkpoints.wait()
    checkpoints.close()
    assert complete_steps(tmp_path) == [2, 4]
    assert best_step(tmp_path) == 2


def test_a_best_step_that_nobody_knows_is_refused(tmp_path):
    _, _, state = toy.setup()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, step=3, meta={})
    checkpoints.wait()
    with pytest.raises(InputError, match="has no validation loss to know the best step by"):
        best_step(tmp_path)
    checkpoints.save(state, step=4, meta={"validation": [[2, 0.5], [4, 0.7]]})
    checkpoints.close()
    with pytest.raises(InputError, match=r"was best at step 2, which was not kept: .*checkpoint.keep_best=true"):
        best_step(tmp_path)
