# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a whole run compiles: every program of ours once, hardly anything else, and nothing in a second run. And, since
it is there, what its three phases train."""

import shutil

import numpy as np
import pytest

import dreambooth_jax as dbx
from dreambooth_jax import trees
from tests.runs import MODEL, assert_same, programs_of_run, weights

pytestmark = pytest.mark.slow  # three processes, and all the programs of a run to compile

RUN = [
    "train.steps=4",
    "train.ema_decay=0.5",
    "checkpoint.every=1",
    "samples.every=2",
    "samples.steps=2",
    "samples.num_images=2",
    "text_encoder.start=1",
    "text_encoder.stop=3",
]
"""Class images, caching, three phases of two kinds, samples before, between and after."""


def run(root, *overrides):
    """Programs asked for by a run in a process of its own, and ``misses``: those that were not kept from before."""
    return programs_of_run(root, *RUN, *overrides)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("compiles")


@pytest.fixture(scope="module")
def first(root):
    return run(root)


def test_a_run_compiles_every_program_once(first):
    counts = dict(first)
    misses = counts.pop("misses")
    assert counts["jit(_mapped)"] == 4  # class images, latents, text states, samples
    assert counts["jit(draw_latents)"] == 2  # noise of the class images, of the samples
    assert counts["jit(run)"] == 2  # a step for each kind of phase; the third phase is of the first's kind
    assert counts["jit(_finite)"] == 1  # whether what is saved is finite
    assert sum(counts.values()) == misses <= 17, counts  # nothing is asked for twice, and hardly anything but these


def test_the_text_encoder_is_trained_in_its_stretch_alone(root, first):
    folder = root / "run"
    original = trees.flatten(dbx.load_pretrained(MODEL).params)
    at = [{k: v for k, v in weights(folder, step).items() if k.startswith("text_encoder")} for step in (1, 2, 3, 4)]
    assert_same({name: np.asarray(original[name]) for name in at[0]}, at[0])
    assert_same(at[2], at[3])
    for earlier, later in ((at[0], at[1]), (at[1], at[2])):
        assert all((earlier[name] != later[name]).any() for name in earlier if not name.endswith("k_proj/bias"))
    exported = trees.flatten(dbx.load_pretrained(folder / "model").params)
    average = weights(folder, 4, ema=True)
    assert_same({name: np.asarray(exported[name]) for name in average}, average)
    assert any((average[name] != leaf).any() for name, leaf in weights(folder, 4).items())


def test_the_next_run_compiles_nothing(root, first):
    for step in (3, 4):
        shutil.rmtree(root / "run" / "checkpoints" / str(step))
    shutil.rmtree(root / "run" / "model")
    resumed = run(root)
    assert resumed["jit(run)"] == 2  # in the middle of the second phase
    assert "misses" not in resumed
    changed = run(root, f"run_dir={root / 'second'}", "train.seed=1", "samples.steps=3", "samples.seed=5")
    assert "misses" not in changed
