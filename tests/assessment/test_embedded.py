# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``evaluate`` tells a run of the embedded model from the model that it began with."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def test_untrained_is_ranked_below_trained(tmp_path):
    """A third of the quick start's steps, without class images; as users run it, with XLA's optimisations."""
    run, out = tmp_path / "run", tmp_path / "out"
    short = ("train.steps=120", "prior.weight=0", "samples.every=0", f"run_dir={run}")
    measured = ("num_images=2", "num_class_images=4", "steps=15", f"out={out}")
    for call in (("train", "quickstart", *short), ("evaluate", "embedded", str(run), *measured)):
        command = [sys.executable, "-m", "dreambooth_jax", *call]
        ended = subprocess.run(command, env=os.environ | {"XLA_FLAGS": ""}, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == str(out / "report.html")
    untrained, trained = (source["scores"] for source in json.loads((out / "scores.json").read_text())["sources"])
    for name in ("recognised", "fidelity"):
        assert untrained[name]["high"] < trained[name]["low"], name
    assert trained["scene"]["mean"] > 0.8
