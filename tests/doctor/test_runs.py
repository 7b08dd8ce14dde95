# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The verb, on a tiny run of Stable Diffusion."""

import json
import shutil

import pytest

from dreambooth_jax import train
from dreambooth_jax.cli import main
from dreambooth_jax.config import load_config, save_config
from tests.assessment.towers import save_clip
from tests.runs import draw_photos, tiny_config


@pytest.fixture
def run(tmp_path):
    """What tells that there is a run with a checkpoint, which nobody reads unless pictures are drawn."""
    config = tiny_config(tmp_path, "prior.weight=0", "train.steps=4")
    folder = tmp_path / "run"
    for file in ("3/_CHECKPOINT_METADATA", "3/meta/metadata"):
        (folder / "checkpoints" / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / "checkpoints" / file).touch()
    save_config(folder / "config.yaml", config)
    return folder


def told(capsys, *words):
    """What it says, as JSON; nothing else is on the standard output."""
    capsys.readouterr()
    assert main(["doctor", *map(str, words), "--json=true"]) == 0
    return json.loads(capsys.readouterr().out)


def test_without_towers_it_says_what_it_could_not_look_at(run, capsys):
    (one,) = told(capsys, run)
    assert any("evaluate.dino" in what for what in one["not_looked_at"])
    assert one["looks"] is None
    found = {finding["name"]: finding for finding in one["findings"]}
    assert found.keys() >= {"rate_too_high", "no_prior"}
    assert found["rate_too_high"]["change"] == "optimizer.learning_rate=1e-06"
    assert not (run / "doctor").exists()


def test_people_read_each_finding_with_its_evidence_and_what_to_change(run, capsys):
    capsys.readouterr()
    assert main(["doctor", str(run)]) == 0
    text = capsys.readouterr().out
    (one,) = told(capsys, run)
    for finding in one["findings"]:
        assert all(text.count(part) for part in (finding["what"], finding["change"], *finding["evidence"]))
    assert all(what in text for what in one["not_looked_at"])


def test_a_run_without_a_checkpoint_is_read_as_far_as_it_goes(run, capsys):
    shutil.rmtree(run / "checkpoints")
    (one,) = told(capsys, run)
    assert any("no finished checkpoint" in what for what in one["not_looked_at"])
    assert one["findings"]


def test_a_model_that_is_gone_is_not_needed_to_read_settings(run, tmp_path, capsys):
    file = run / "config.yaml"
    save_config(file, load_config(file, [f"model.path={tmp_path / 'gone'}"]))
    (one,) = told(capsys, run)
    assert any("tokens of the identifier" in what for what in one["not_looked_at"])


def test_a_folder_of_runs_is_told_run_by_run(run, tmp_path, capsys):
    for name in ("a", "b"):
        shutil.copytree(run, tmp_path / "runs" / name)
    assert [one["name"] for one in told(capsys, tmp_path / "runs")] == ["runs-a", "runs-b"]


@pytest.mark.slow
def test_towers_look_at_pictures_once(tmp_path, capsys, one_device):
    """Random ones: what they see is nothing, but all of the way is gone."""
    pytest.importorskip("torch")
    train(tiny_config(tmp_path, "prior.weight=0", "train.steps=1"))
    run = tmp_path / "run"
    save_clip(tmp_path / "clip")
    (tmp_path / "prompts.txt").write_text("a {identifier} {class_noun} here\na {identifier} {class_noun} there\n")
    words = [
        run,
        f"evaluate.clip={tmp_path / 'clip'}",
        f"prompts={tmp_path / 'prompts.txt'}",
        f"out={tmp_path / 'out'}",
    ]
    (one,) = told(capsys, *words, "steps=1", "num_images=1", "num_class_images=1")
    assert one["looks"]["eye"] == "CLIP"
    assert one["looks"]["naming"]["instead"]
    assert one["not_looked_at"] == []
    drawn = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*.png")}
    assert len(drawn) == 6
    (again,) = told(capsys, *words, "steps=1", "num_images=1", "num_class_images=1")
    assert again == one
    assert drawn == {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*.png")}


def test_wrong_words_are_one_line_and_exit_code_2(run, tmp_path, capsys):
    draw_photos(tmp_path / "photos")
    for words, said in (
        (["nowhere"], "nowhere"),
        (["embedded"], "is no run"),
        ([str(tmp_path / "photos")], "is no run"),
        ([str(run), "photos=nowhere"], "nowhere"),
        ([str(run), "evaluate.dino=nowhere"], "nowhere"),
        ([str(run), "other"], "one word too many"),
        ([str(run), "--stepz=1"], "did you mean step"),
        ([str(run), "num_images=0"], "num_images = 0"),
        ([], "run"),
    ):
        capsys.readouterr()
        assert main(["doctor", *words]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dreambooth-jax: ")]
        assert len(lines) == 1
        assert said in lines[0]


def test_each_of_several_subjects_is_told_by_its_own_settings(tmp_path, capsys):
    draw_photos(tmp_path / "photos")
    draw_photos(tmp_path / "one", 1)
    two = [
        {"identifier": "sks", "class_noun": "dog", "instance_images": str(tmp_path / "photos"), "weight": 0},
        {"identifier": "zwx", "class_noun": "cat", "instance_images": str(tmp_path / "one"), "weight": 1},
    ]
    usual = ("optimizer.learning_rate=1e-6", "train.steps=1600")
    (tmp_path / "run").mkdir()
    save_config(tmp_path / "run" / "config.yaml", tiny_config(tmp_path, f"data.concepts={json.dumps(two)}", *usual))
    found = told(capsys, tmp_path / "run")
    changes = [{finding["name"]: finding["change"] for finding in one["findings"]} for one in found]
    assert changes[0]["no_prior"] == "data.concepts.0.weight=1"
    assert "no_prior" not in changes[1]
    assert changes[1]["few_photos"].startswith("data.concepts.1.instance_images")
    assert "few_photos" not in changes[0]


def test_templates_without_the_identifier_are_found(run, capsys):
    file = run / "config.yaml"
    for templates, found in ((["a {identifier} dog", "a dog"], True), (["a {identifier} dog"], False)):
        save_config(file, load_config(file, [f"data.templates={json.dumps(templates)}"]))
        (one,) = told(capsys, run)
        assert ("unnamed" in [finding["name"] for finding in one["findings"]]) == found
