# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Whole runs whose pictures are measured while they train, by the judge that ships."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import dreambooth_jax as dbx
from dreambooth_jax.config.scores import SCORES
from dreambooth_jax.errors import InputError
from dreambooth_jax.evaluation.judge import SHIPPED
from dreambooth_jax.members import Member
from dreambooth_jax.runs import open_model
from dreambooth_jax.trainer import training
from dreambooth_jax.trainer.members import run_group
from dreambooth_jax.training.checkpoint import complete_steps, read_meta
from tests.runs import assert_same, killed_at, programs_of_run, tiny_config, weights

SETTINGS = (
    *("prior.weight=0", "train.batch_size=8", "train.steps=6", "checkpoint.every=3", "checkpoint.keep_last=1"),
    *("optimizer.learning_rate=3e-2", "adapter.kind=lora", "adapter.rank=2", "text_encoder.stop=0"),
    *("samples.every=6", "samples.steps=2", "samples.num_images=2"),
)
MEASURED = (f"evaluate.judge={SHIPPED}", "evaluate.every=1", "checkpoint.keep_best=fidelity*diversity")


def scored(folder):
    """(step, scores) of each line that has them."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = [
        (line["step"], {n.removeprefix("scores/"): v for n, v in line.items() if "scores/" in n}) for line in lines
    ]
    return [(step, scores) for step, scores in found if scores]


def best_of(folder):
    """The step of the largest product, by hand."""
    products = {step: scores["fidelity"] * scores["diversity"] for step, scores in scored(folder) if step}
    return max(products, key=lambda step: products[step])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("scored")


@pytest.fixture(scope="module")
def whole(root):
    return dbx.train(tiny_config(root, *SETTINGS, *MEASURED, "export.weights=best", f"run_dir={root / 'whole'}")).folder


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]


def test_scores_are_written_and_the_best_step_is_kept_and_exported(whole):
    assert [step for step, _ in scored(whole)] == list(range(7))
    assert all(scores.keys() <= SCORES.keys() for _, scores in scored(whole))
    best = best_of(whole)
    assert complete_steps(whole / "checkpoints") == sorted({best, 6})
    assert open_model(str(whole), step="best").name.endswith(f"at step {best}")
    kept = weights(whole, best)
    downs = [leaf for name, leaf in load_file(whole / "lora.safetensors").items() if "lora_down" in name]
    assert downs
    norms = sorted(float(np.linalg.norm(leaf.astype(np.float64))) for leaf in downs)
    expected = [leaf for name, leaf in kept.items() if "lora_down" in name]
    assert norms == pytest.approx(sorted(float(np.linalg.norm(leaf.astype(np.float64))) for leaf in expected))


def test_measuring_changes_no_number_and_a_killed_run_is_the_same(root, whole, monkeypatch):
    plain = dbx.train(tiny_config(root, *SETTINGS, f"run_dir={root / 'plain'}")).folder
    assert_same(weights(plain, 6), weights(whole, 6))
    grid = "samples/step_000006.png"
    assert (plain / grid).read_bytes() == (whole / grid).read_bytes()
    settings = (*SETTINGS, *MEASURED, "export.weights=best", f"run_dir={root / 'two'}")
    with monkeypatch.context() as patch:
        patch.setattr(training, "run_phases", killed_at(4))
        dbx.train(tiny_config(root, *settings))
    two = dbx.train(tiny_config(root, *settings)).folder
    assert scored(two) == scored(whole)
    for name in ("best", "scores"):
        assert read_meta(two / "checkpoints", 6)[name] == read_meta(whole / "checkpoints", 6)[name]
    assert complete_steps(two / "checkpoints") == complete_steps(whole / "checkpoints")
    assert_same(*(load_file(folder / "lora.safetensors") for folder in (two, whole)))


def test_measuring_compiles_nothing_anew(root):
    """The judge is one program; what the run compiles without it, it compiles as often."""
    settings = (*SETTINGS, "samples.every=3")
    plain = programs_of_run(root, *settings, f"run_dir={root / 'counted'}")
    counts = programs_of_run(root, *settings, *MEASURED, f"run_dir={root / 'counted too'}")
    assert counts.pop("jit(_judge)", 0) == 1
    plain.pop("misses", None)
    assert {name: counts[name] for name in plain} == plain


def test_each_member_keeps_its_own_best(root):
    def config(name):
        own = {"slow": "optimizer.learning_rate=1e-3", "fast": "optimizer.learning_rate=3e-2"}[name]
        return tiny_config(root, *SETTINGS, *MEASURED, own, f"run_dir={root / 'group' / name}", "export.weights=best")

    group = [Member(name=name, config=config(name)) for name in ("slow", "fast")]
    for outcome in run_group(group, root / "group"):
        folder = outcome.result.folder
        best = best_of(folder)
        assert complete_steps(folder / "checkpoints") == sorted({best, 6}), outcome.name
        assert open_model(str(folder), step="best").name.endswith(f"at step {best}")
        assert [step for step, _ in scored(folder)] == list(range(7))


def test_a_score_that_these_photos_do_not_have_is_said_before_the_first_step(root):
    """The photos are of nobody whom the judge knows, or else these prompts say no place."""
    settings = (*SETTINGS, *MEASURED, "checkpoint.keep_best=scene", f"run_dir={root / 'none'}")
    with pytest.raises(InputError, match=r"scene has no value .*; there are .*fidelity"):
        dbx.train(tiny_config(root, *settings))
    assert not (root / "none" / "checkpoints").exists() or not complete_steps(root / "none" / "checkpoints")
