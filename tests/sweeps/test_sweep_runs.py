# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Tiny sweeps through the command line: what is trained, what is not again, and what is shown."""

import json
import shutil
from collections import Counter
from pathlib import Path
from signal import SIGTERM
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dreambooth_jax.cli import main
from dreambooth_jax.cli.parsing import read_call
from dreambooth_jax.cli.sweep import SWEEP, planned
from dreambooth_jax.errors import InputError
from dreambooth_jax.prepare import fingerprints
from dreambooth_jax.sweeps.run import left_of
from dreambooth_jax.sweeps.sweep import read_sweep
from tests.runs import MODEL, draw_photos, weights

pytestmark = [pytest.mark.filterwarnings("ignore:.*:ResourceWarning"), pytest.mark.usefixtures("one_device")]

TINY = [
    f"model.path={MODEL}",
    "data.class_noun=dog",
    "data.resolution=16",
    "prior.weight=0",
    "adapter.kind=lora",
    "adapter.rank=2",
    "optimizer.learning_rate=1e-3",
    "train.batch_size=1",
    "train.log_every=1",
    "train.steps=2",
    "samples.every=0",
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return draw_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def swept(tmp_path_factory, photos, one_device):
    """Two rates, each drawn with steps x guidance."""
    folder = tmp_path_factory.mktemp("sweep") / "rates"
    words = ["optimizer.learning_rate=1e-3,1e-2", "samples.steps=1,2", "samples.guidance_scale=2,3"]
    assert main(["sweep", *TINY, f"data.instance_images={photos}", f"run_dir={folder}", *words]) == 0
    return folder, [*TINY, f"data.instance_images={photos}", f"run_dir={folder}", *words]


def members(folder):
    return sorted(path.name for path in (folder / "members").iterdir())


def test_how_many_are_trained_at_once_is_a_number_or_left_to_the_devices(tmp_path, photos, capsys):
    words = ["sweep", *TINY, f"data.instance_images={photos}", f"run_dir={tmp_path}", "train.seed=0,1,2", "--dry_run"]
    for said, groups in ((["--at_once", "2"], 2), (["--at_once", "auto"], 1), ([], 1)):
        assert main([*words, *said]) == 0
        assert f"steps in {groups} group" in capsys.readouterr().out
    assert main([*words, "--at_once", "many"]) == 2
    assert "--at_once is many, but must be auto or a whole number of members" in capsys.readouterr().err


@pytest.mark.slow
def test_all_combinations_are_trained_each_in_a_folder(swept):
    folder, _ = swept
    assert members(folder) == ["learning_rate-0.001", "learning_rate-0.01"]
    for name in members(folder):
        assert (folder / "members" / name / "lora.safetensors").exists()
        assert (folder / "members" / name / "metrics.jsonl").exists()


@pytest.mark.slow
def test_a_member_is_the_run_that_train_makes_of_its_settings(swept, tmp_path, photos):
    """But for the order in which float32 is summed up over rows, since a step takes those of all members."""
    folder, _ = swept
    words = [*TINY, f"data.instance_images={photos}", f"run_dir={tmp_path}", "optimizer.learning_rate=1e-2"]
    assert main(["train", *words]) == 0
    own, swept_one = weights(tmp_path, 2), weights(folder / "members" / "learning_rate-0.01", 2)
    assert own.keys() == swept_one.keys()
    for name, leaf in own.items():
        assert np.abs(leaf - swept_one[name]).max() <= 1e-2 * 1e-2, name  # a hundredth of one step of the rate


@pytest.mark.slow
def test_the_overview_has_all_members_scores_effects_and_one_picture(swept):
    folder, _ = swept
    said = json.loads((folder / "overview.json").read_text())
    assert [one["values"]["optimizer.learning_rate"] for one in said["members"]] == ["0.001", "0.01"]
    assert all(one["finished"] and one["scores"]["training_loss"] > 0 for one in said["members"])
    table = (folder / "overview.md").read_text()
    assert "| learning_rate | taken |" in table
    assert "![All members](grid.png)" in table
    with Image.open(folder / "grid.png") as sheet:
        assert sheet.height > 2 * 16
        assert sheet.width > 4 * 16
    assert all(len(list((folder / "members" / name / "pictures").iterdir())) == 4 for name in members(folder))


@pytest.mark.slow
def test_what_is_done_is_not_done_again(swept, monkeypatch, capsys):
    folder, words = swept
    monkeypatch.setattr("dreambooth_jax.sweeps.jobs.train", None)  # nobody may ask for it
    monkeypatch.setattr("dreambooth_jax.sweeps.jobs.run_group", None)
    monkeypatch.setattr("dreambooth_jax.sweeps.pictures.open_model", None)
    assert main(["sweep", *words]) == 0
    assert capsys.readouterr().out.strip() == str(folder)


@pytest.mark.slow
def test_more_values_train_what_is_new_alone(swept, monkeypatch, tmp_path):
    folder, words = swept
    shutil.copytree(folder, tmp_path / "rates")
    words = [one for one in words if not one.startswith(("run_dir", "optimizer.learning_rate"))]
    words += [f"run_dir={tmp_path / 'rates'}", "optimizer.learning_rate=1e-3,1e-2,1e-1"]
    trained = []

    def stopped(members, folder):
        trained.extend(one.config.optimizer.learning_rate for one in members)
        return [SimpleNamespace(stopped="", result=SimpleNamespace(finished=False, signal=SIGTERM)) for _ in members]

    monkeypatch.setattr("dreambooth_jax.sweeps.jobs.run_group", stopped)
    assert main(["sweep", *words]) == 0
    assert trained == [0.1]


@pytest.mark.slow
def test_a_changed_setting_is_refused_in_one_line(swept, capsys):
    _, words = swept
    assert main(["sweep", *words, "adapter.rank=4"]) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("dreambooth-jax: ")]
    assert "adapter.rank was 2 and is 4; change it back, or choose another run_dir" in line


@pytest.mark.slow
def test_another_model_or_photo_is_another_run_and_a_moved_one_is_not(swept, tmp_path, photos, monkeypatch, capsys):
    """Files are looked at once for all members, not once for each."""
    folder, words = swept
    shutil.copytree(folder, tmp_path / "rates")
    moved, other = (shutil.copytree(MODEL, tmp_path / name) for name in ("moved", "other"))
    (unet,) = (other / "unet").glob("*.msgpack")
    whole = bytearray(unet.read_bytes())
    whole[-2] ^= 16
    unet.write_bytes(whole)
    replaced = shutil.copytree(photos, tmp_path / "photos")
    draw_photos(tmp_path / "more", 6)
    shutil.copy(tmp_path / "more" / "5.png", replaced / "0.png")
    looked = Counter()

    def counted(name, real):
        def called(*args, **options):
            looked[name] += 1
            return real(*args, **options)

        return called

    for name in ("identify", "read_own_pictures"):
        monkeypatch.setattr(fingerprints, name, counted(name, getattr(fingerprints, name)))

    def left(*changed):
        call = read_call(SWEEP, [*words, f"run_dir={tmp_path / 'rates'}", *changed])
        return left_of(planned(call, call.taken, within="members")[1])

    assert left() == left(f"model.path={moved}") == ()
    assert looked == {"identify": 2, "read_own_pictures": 2}
    for changed, what in (
        (f"model.path={other}", "weights of the model"),
        (f"model.vae={other}", "weights of the mod"),
    ):
        with pytest.raises(InputError, match=rf"^learning_rate-0.001: .*the {what}.* changed.*choose another run_dir"):
            left(changed)
    assert len(left(f"data.instance_images={replaced}")[0]) == 2  # which the run itself looks at
    assert main(["sweep", *words, f"run_dir={tmp_path / 'rates'}", f"data.instance_images={replaced}"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "2 of 2 members failed" in line
    assert "the instance images, their captions or weights changed; change it back, or choose another run_dir" in line
    kept = shutil.copytree(photos, tmp_path / "kept")
    assert main(["sweep", *words, f"run_dir={tmp_path / 'rates'}", f"data.instance_images={kept}"]) == 0
    shutil.copy(tmp_path / "more" / "5.png", kept / "0.png")
    assert main(["sweep", *words, f"run_dir={tmp_path / 'rates'}", f"data.instance_images={kept}"]) == 2
    assert "learning_rate-0.001: " in capsys.readouterr().err.splitlines()[-1]


def test_the_plan_alone_writes_nothing(tmp_path, photos, capsys):
    words = [*TINY, f"data.instance_images={photos}", f"run_dir={tmp_path / 'x'}"]
    assert main(["sweep", *words, "train.seed=0,1", "adapter.rank=1,2", "samples.steps=3,4", "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "4 trainings; 8 steps in 2 groups are to be done" in said
    assert "2 members of one program: seed-0_rank-1, seed-1_rank-1" in said
    assert "groups differ in adapter.rank" in said
    assert "all combinations of steps=3,4" in said
    assert not (tmp_path / "x").exists()
    assert main(["sweep", *words, "train.seed=0,1", "adapter.kind=full", "adapter.rank=16", "--dry_run"]) == 0
    assert "a copy of the weights of its own (adapter.kind=full): seed-0, seed-1" in capsys.readouterr().out


def test_subjects_alone_are_as_many_at_once_as_is_said(tmp_path, photos, monkeypatch, capsys):
    """By either of the verbs that messages are about."""
    for name in ("dog1", "cat", "dog2"):
        shutil.copytree(photos, tmp_path / "subjects" / name)
    words = [*TINY, f"data.subjects={tmp_path / 'subjects'}", f"run_dir={tmp_path / 'run'}", "--at_once"]
    assert main(["sweep", *words, "2", "--dry_run"]) == 0
    assert "3 trainings; 6 steps in 2 groups are to be done" in capsys.readouterr().out
    sizes = []
    monkeypatch.setattr("dreambooth_jax.sweeps.run.run_sweep", lambda *of, at_once, **_: sizes.append(at_once))
    monkeypatch.setattr("dreambooth_jax.cli.sweep._show", lambda _: None)
    assert main(["train", *words, "2"]) == 0
    assert sizes == [2]
    assert main(["train", *words, "few"]) == 2
    assert "--at_once is few, but must be auto or a whole number of members" in capsys.readouterr().err
    assert main(["train", *TINY, f"data.instance_images={photos}", "--at_once", "2"]) == 2
    assert "--at_once 2 is of many subjects: set data.subjects, or leave it out" in capsys.readouterr().err


def test_the_subject_of_a_file_gives_way_to_those_of_a_folder(tmp_path, photos):
    for name in ("dog1", "cat"):
        shutil.copytree(photos, tmp_path / "subjects" / name)
    words = ["quickstart", f"data.subjects={tmp_path / 'subjects'}", f"run_dir={tmp_path / 'run'}"]
    for noun, expected in ((None, ["cat", "dog"]), ("pet", ["pet", "pet"])):
        call = read_call(SWEEP, [*words, *([f"data.class_noun={noun}"] if noun else [])])
        _, members = planned(call, call.taken, within="subjects")
        assert [member.config.data.class_noun for member in members] == expected
        assert {Path(member.config.data.instance_images).parent for member in members} == {tmp_path / "subjects"}


def test_subjects_of_a_list_are_not_of_the_class_of_a_files_own(tmp_path, photos):
    """The quick start's alien."""
    (tmp_path / "list.yaml").write_text(f"rex: {{photos: {photos}}}\n")
    words = ["quickstart", f"data.subjects={tmp_path / 'list.yaml'}", f"run_dir={tmp_path / 'run'}"]
    with pytest.raises(InputError, match="rex.*does not say what its subject is"):
        planned(read_call(SWEEP, words), [], within="subjects")
    for nouns in ("pet", "pet,dog"):
        call = read_call(SWEEP, [*words, f"data.class_noun={nouns}"])
        _, members = planned(call, call.taken, within="subjects")
        assert [member.config.data.class_noun for member in members] == nouns.split(",")


@pytest.mark.slow
def test_a_member_that_cannot_go_on_is_named_and_the_others_do(tmp_path, photos, capsys):
    words = [
        *TINY,
        f"run_dir={tmp_path}",
        "train.steps=1",
        f"data.instance_images={tmp_path / 'no' / 'where'},{photos}",
    ]
    assert main(["sweep", *words]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "1 of 2 members failed" in line
    assert "no such folder" in line
    found = json.loads((tmp_path / "overview.json").read_text())["members"]
    assert [one["finished"] for one in found] == [False, True]
    assert "no such folder" in found[0]["error"]


@pytest.mark.slow
def test_subjects_are_trained_each_with_an_adapter(tmp_path, capsys):
    for name in ("dog6", "cat"):
        draw_photos(tmp_path / "photos" / name, 2)
    words = [one for one in TINY if "class_noun" not in one and "prior" not in one]
    words += [
        "prior.num_images=2",
        "prior.steps=1",
        f"data.subjects={tmp_path / 'photos'}",
        f"run_dir={tmp_path / 'r'}",
    ]
    assert main(["train", *words]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "r")
    for name in ("dog6", "cat"):
        assert (tmp_path / "r" / "subjects" / name / "lora.safetensors").exists()
    assert sorted(path.name.partition("-")[0] for path in (tmp_path / "r" / "class_images").iterdir()) == [
        "a_photo_of_a_cat",
        "a_photo_of_a_dog",
    ]
    sweep = read_sweep(tmp_path / "r")
    assert sweep.member("dog6").config.data.class_noun == "dog"
    assert "| cat |" in (tmp_path / "r" / "overview.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing is varied"),
        (["train.seed=0"], "nothing is varied"),
        (["run_dir=a,b"], "run_dir has 2 values"),
        (["train.stepz=1,2"], "unknown key train.stepz; did you mean train.steps?"),
        (["train.steps="], "train.steps is empty"),
        (["train.steps=1,"], "train.steps has an empty value"),
        (["data.subjects=nowhere"], "no such folder of folders of photos"),
        (["samples.sampler=ddim,nothing"], "sampler = 'nothing': must be one of"),
        (["train.seed=0,1", "--engine", "cloud"], "--engine is cloud, but there are local, ray, slurm"),
        (["train.seed=0,1", "--engine", "ray"], "needs the extra ray: pip install 'dreambooth_jax[ray]'"),
        (["train.seed=0,1", "--engine", "slurm"], "needs sbatch"),
        (["train.seed=0,1", "--engine", "slrum", "--dry_run"], "--engine is slrum, but there are local, ray, slurm"),
        (["train.seed=0,1", "--retries", "-1"], "--retries is -1, but must be at least 0"),
        (["train.seed=0,1", "--engine", "slurm", "--gpus", "0.5"], "--gpus is 0.5, but SLURM gives whole GPUs"),
        (["data.subjects=x", "data.instance_images=y"], "both given"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *TINY, *words]) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("dreambooth-jax: ")]
    assert message in line


def test_other_verbs_say_who_takes_subjects(capsys):
    assert main(["prior", *TINY, "data.subjects=x"]) == 2
    assert "take it" in capsys.readouterr().err
