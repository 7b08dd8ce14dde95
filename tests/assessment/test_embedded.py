# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``evaluate`` tells a run of the embedded model from the model that it began with."""

import json
import os
import subprocess
import sys

import pytest
from safetensors import safe_open

from dreambooth_jax.training.checkpoint import complete_steps

pytestmark = pytest.mark.slow

OVERFITTING = (
    *("train.steps=60", "optimizer.learning_rate=5e-3", "samples.every=0", "samples.num_images=8", "samples.steps=12"),
    'samples.prompts=["a {identifier} {class_noun}"]',
)
"""At five times the rate of the quick start."""


def told(*words):
    """What a command says, as users run it, with XLA's optimisations."""
    command = [sys.executable, "-m", "dreambooth_jax", *words]
    ended = subprocess.run(command, env=os.environ | {"XLA_FLAGS": ""}, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory):
    """Without class images, measured every 12 steps."""
    folder = tmp_path_factory.mktemp("overfitted") / "lambda 0"
    kept = ("evaluate.every=12", "checkpoint.keep_best=fidelity*leaked", "export.weights=best")
    told("train", "quickstart", *OVERFITTING, "prior.weight=0", *kept, f"run_dir={folder}")
    return folder


def test_untrained_is_ranked_below_trained(tmp_path):
    """A third of the quick start's steps, without class images; as users run it, with XLA's optimisations."""
    run, out = tmp_path / "run", tmp_path / "out"
    short = ("train.steps=120", "prior.weight=0", "samples.every=0", f"run_dir={run}")
    measured = ("num_images=2", "num_class_images=4", "steps=15", f"out={out}")
    told("train", "quickstart", *short)
    ended = told("evaluate", "embedded", str(run), *measured)
    assert ended.stdout.strip() == str(out / "report.html")
    untrained, trained = (source["scores"] for source in json.loads((out / "scores.json").read_text())["sources"])
    for name in ("recognised", "fidelity"):
        assert untrained[name]["high"] < trained[name]["low"], name
    assert trained["scene"]["mean"] > 0.8


def test_a_run_made_to_overfit_keeps_an_earlier_step(overfitted):
    """The class becomes the subject: the best step is one that has learnt it, and has not yet lost the class."""
    lines = [json.loads(line) for line in (overfitted / "metrics.jsonl").read_text().splitlines()]
    scores = {line["step"]: line for line in lines if "scores/leaked" in line}
    assert sorted(scores) == [0, 12, 24, 36, 48, 60]
    worth = {step: one["scores/fidelity"] * (1 - one["scores/leaked"]) for step, one in scores.items() if step}
    best = max(worth, key=lambda step: worth[step])
    assert best < 60
    assert scores[best]["scores/fidelity"] > scores[0]["scores/fidelity"]
    assert scores[best]["scores/leaked"] < scores[60]["scores/leaked"]
    assert complete_steps(overfitted / "checkpoints") == [best, 60]
    with safe_open(overfitted / "lora.safetensors", "np") as file:
        assert file.metadata()["ss_steps"] == str(best)


def test_without_class_images_more_leaks_than_with_them(overfitted, tmp_path):
    """PRES of the paper, by the judge: the class prompt is drawn with the last weights of both."""
    run, out, prompts = tmp_path / "lambda 1", tmp_path / "out", tmp_path / "prompts.txt"
    prompts.write_text("a {identifier} {class_noun}\n")
    told("train", "quickstart", *OVERFITTING, "prior.num_images=16", f"run_dir={run}")
    told(
        *("evaluate", str(overfitted), str(run), f"prompts={prompts}", "num_images=4", "num_class_images=16"),
        *("steps=12", f"out={out}"),
    )
    without, with_them = (source["scores"] for source in json.loads((out / "scores.json").read_text())["sources"])
    for name in ("class fidelity", "leaked"):
        assert without[name]["mean"] > with_them[name]["mean"], name
