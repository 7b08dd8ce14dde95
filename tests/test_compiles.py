# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a whole run compiles: every program of ours once, hardly anything else, and nothing in a second run."""

import json
import os
import shutil
import subprocess
import sys

import pytest

RUN = [
    "train.steps=4",
    "checkpoint.every=2",
    "samples.every=2",
    "samples.steps=2",
    "samples.num_images=2",
    "text_encoder.start=1",
    "text_encoder.stop=3",
]
"""Class images, caching, three phases of two kinds, samples before, between and after."""


def run(tmp_path, *overrides):
    """Programs asked for by a run in a process of its own, and ``misses``: those that were not kept from before."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    ended = subprocess.run(
        [sys.executable, "-m", "tests.count_compiles", str(tmp_path), *RUN, *overrides],
        env=environment | {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.slow  # three processes, and all the programs of a run to compile
def test_a_run_compiles_every_program_once_and_the_next_run_nothing(tmp_path):
    first = run(tmp_path)
    misses = first.pop("misses")
    assert first["jit(_compiled)"] == 4  # class images, latents, text states, samples
    assert first["jit(_draw)"] == 2  # noise of the class images, of the samples
    assert first["jit(run)"] == 2  # a step for each kind of phase; the third phase is of the first's kind
    assert sum(first.values()) == misses <= 16, first  # nothing is asked for twice, and hardly anything but these

    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    shutil.rmtree(tmp_path / "run" / "model")
    resumed = run(tmp_path)
    assert resumed["jit(run)"] == 2
    assert "misses" not in resumed
    changed = run(tmp_path, f"run_dir={tmp_path / 'second'}", "train.seed=1", "samples.steps=3", "samples.seed=5")
    assert "misses" not in changed
