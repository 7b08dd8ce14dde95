# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A run with photos in two shapes and class images in one: what it compiles and when, and what it plans."""

import json
import shutil

import jax
import numpy as np
import pytest

from dreambooth_jax.memory import Usage
from dreambooth_jax.planning.build import build
from dreambooth_jax.planning.measure import Measured
from dreambooth_jax.planning.result import Plan
from dreambooth_jax.target import Target
from tests.runs import assert_same, programs_of_run, tiny_config, weights

BUCKETS = ("data.resolution=24", "data.buckets=3", "data.bucket_step=16", "data.bucket_ratio=2", "train.batch_size=2")


def run(root, *overrides):
    """Programs that a run on one device asks for, in a process of its own."""
    return programs_of_run(root, *BUCKETS, *overrides)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("buckets")


@pytest.fixture(scope="module")
def compiled(root):
    """What a whole run asks for."""
    return run(root)


@pytest.mark.slow
def test_each_shape_has_a_step_and_nothing_is_compiled_twice(root, compiled):
    """Before the first step all are asked for, so that none can be later: counts would be higher."""
    assert compiled["jit(run)"] == 2  # 24x24 and 32x16; no photo is tall
    lines = [json.loads(line) for line in (root / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    assert all(np.isfinite(line["loss"]) and line["prior_loss"] > 0 and line["instance_loss"] > 0 for line in lines)


@pytest.mark.slow
def test_moments_of_each_shape_are_cached(root, compiled):
    shapes = []
    for path in (root / "run" / "cache").glob("moments-*.npz"):
        with np.load(path) as stored:
            shapes.append(stored["mean"].shape)
    assert sorted(shape[0] for shape in shapes) == [2, 3, 6]  # square photos, wide ones, class images
    assert {height / width for _, _, height, width, _ in shapes} == {1, 0.5}


@pytest.mark.slow
def test_stopped_and_resumed_is_bit_identical(root, compiled):
    before = weights(root / "run", 6)
    shutil.rmtree(root / "run" / "checkpoints" / "6")
    shutil.rmtree(root / "run" / "model")
    assert run(root)["jit(run)"] == 2
    assert_same(before, weights(root / "run", 6))


@pytest.mark.slow  # traces three programs
def test_the_plan_has_each_shape_before_a_photo_is_read(root):
    asked = []

    def compiler(name, lower):
        rows = [leaf.shape for leaf in jax.tree.leaves(lower().in_avals) if leaf.ndim == 4 and leaf.shape[0] == 2]
        asked.append((name, sorted({shape[1] / shape[2] for shape in rows})))
        usage = Usage(arguments=1, results=1, temporaries=len(asked))
        return Measured(usage=usage)

    config = tiny_config(root, *BUCKETS, "data.instance_images=", "samples.every=0")
    found = build(config, Target.of(jax.devices()[:1]), compiler=compiler)
    names = [f"steps 0 to 6 on {size}" for size in ("16x32", "24x24", "32x16")]
    assert [name for name, _ in asked[:3]] == names
    assert [step.bucket for step in found.steps] == ["16x32", "24x24", "32x16"]
    assert all(step.flops > 0 for step in found.steps)
    assert found.peak >= max(step.peak for step in found.steps)
    assert "steps 0 to 6, training unet, on 32x16" in str(found)
    assert Plan.from_json(json.loads(json.dumps(found.to_json()))) == found
