# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Whole runs of members in one program: each is what it is alone, killed and resumed or not, whatever the others do."""

import shutil
from pathlib import Path

import jax
import pytest
from safetensors.numpy import load_file

from dreambooth_jax.cli import main
from dreambooth_jax.errors import InputError
from dreambooth_jax.locks import locked
from dreambooth_jax.members import groups
from dreambooth_jax.runs import open_model
from dreambooth_jax.sweeps.status import is_done
from dreambooth_jax.target import Target
from dreambooth_jax.trainer.members import run_group
from tests.members.groups import (
    INVERSION,
    LOOP,
    LORA,
    OWN,
    PIVOTAL,
    assert_as_alone,
    assert_close,
    assert_identical,
    draw_pictures,
    lines,
    members,
)
from tests.runs import assert_same, draw_photos, killed_at, weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_device"),
    pytest.mark.filterwarnings("ignore:.*:ResourceWarning"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return draw_pictures(tmp_path_factory.mktemp("members"))


@pytest.fixture(scope="module")
def together(root):
    """Folders of a group that was not disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Target, "here", classmethod(lambda cls: cls.of(jax.devices()[:1])))
        outcomes = run_group(members(root, "together", LORA), root / "groups")
    assert [one.name for one in outcomes] == list(OWN)
    assert all(one.result.finished and not one.stopped for one in outcomes)
    assert [one.result.step for one in outcomes] == [4, 6, 5]
    assert not [*(root / "groups").glob("*")], "all is in the members' own folders"
    return root / "together"


KINDS = {"dora": [*LORA, "adapter.dora=output"], "inversion": INVERSION, "pivotal": PIVOTAL}


@pytest.mark.parametrize("name", OWN)
def test_each_is_what_it_is_alone(root, together, name):
    (alone,) = members(root, "alone", LORA, **{name: []})
    assert_as_alone(together / name, alone.config)


def test_a_members_folder_is_a_run_folder(together, capsys):
    model = open_model(str(together / "cat"))
    assert model.name.endswith("at step 6")
    assert main(["check", str(together / "cat" / "lora.safetensors")]) == 0
    assert "rank 2" in capsys.readouterr().out
    assert main(["export", str(together / "cat"), str(together / "cat-peft.safetensors"), "format=peft"]) == 0


@pytest.mark.parametrize("step", [1, 5])
def test_killed_and_resumed_is_bit_identical(root, together, monkeypatch, step):
    """At step 5 one has ended, and is not asked for again."""
    group = members(root, f"killed-{step}", LORA)
    with monkeypatch.context() as patch:
        patch.setattr(LOOP, killed_at(step))
        outcomes = run_group(group, root / "groups")
    assert [one.result.step for one in outcomes] == [min(step, 4), step, step]
    assert [one.result.finished for one in outcomes] == [step == 5, False, step == 5]
    left = [one for one, outcome in zip(group, outcomes) if not outcome.result.finished]
    assert all(one.result.finished for one in run_group(left, root / "groups"))
    for name in OWN:
        assert_identical(root / f"killed-{step}" / name, together / name)
    assert all(one.result.finished for one in run_group(group, root / "groups")), "and there is nothing left to do"


def test_one_that_diverges_stops_alone_and_is_named(root, together, caplog):
    outcomes = run_group(
        members(root, "diverging", LORA, dog=[], cat=["optimizer.learning_rate=1e30"], hat=[]), root / "g"
    )
    assert [bool(one.stopped) for one in outcomes] == [False, True, False]
    assert [one.result.finished for one in outcomes] == [True, False, True]
    assert "at step 3" in outcomes[1].stopped
    assert outcomes[1].result.step == 2
    assert "cat is stopped after step 2" in caplog.text
    assert not (root / "diverging" / "cat" / "lora.safetensors").exists()
    for name in ("dog", "hat"):
        step = outcomes[list(OWN).index(name)].result.step
        assert_same(weights(root / "diverging" / name, step), weights(together / name, step))
        assert lines(root / "diverging" / name) == lines(together / name)


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_are_what_they_are_alone_killed_and_resumed_or_not(root, kind, monkeypatch):
    own = {name: [f"data.identifier=<{name}>", "prior.weight=0"] for name in ("dog", "cat")}
    whole, killed = (members(root, f"{kind}{part}", KINDS[kind], **own) for part in ("", "-killed"))
    assert all(one.result.finished for one in run_group(whole, root / "groups"))
    with monkeypatch.context() as patch:
        patch.setattr(LOOP, killed_at(3))
        assert [one.result.step for one in run_group(killed, root / "groups")] == [3, 3]
    assert all(one.result.finished for one in run_group(killed, root / "groups"))
    for name in own:
        assert_identical(root / f"{kind}-killed" / name, root / kind / name)
        if kind != "dora":
            assert [*load_file(root / kind / name / "embedding.safetensors")] == [f"<{name}>"]
    (alone,) = members(root, f"{kind}-alone", KINDS[kind], cat=own["cat"])
    assert_as_alone(root / kind / "cat", alone.config)


def test_text_encoders_have_stretches_of_their_own(root):
    settings = [*LORA, "text_encoder.stop=-1", "validation.holdout=0", "checkpoint.every=100"]
    own = {"dog": ["text_encoder.start=2", "prior.weight=0.5"], "cat": ["text_encoder.stop=3", "train.steps=5"]}
    together = members(root, "stretches", settings, **own)
    assert len(groups(together)) == 1
    assert all(one.result.finished for one in run_group(together, root / "groups"))
    for alone in members(root, "stretches-alone", settings, **own):
        assert_as_alone(root / "stretches" / alone.name, alone.config)


def test_who_cannot_go_on_is_named_and_the_others_do(root):
    """Whose photos have changed since, also where the state of all lies in one place."""
    photos = draw_photos(root / "changing", 3)
    own = {"dog": [f"data.instance_images={photos}", "train.steps=2"], "cat": ["train.steps=2"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LOOP, killed_at(1))
        run_group(members(root, "changed", LORA, **own), root / "changed-groups")
    draw_photos(photos, 2)
    next(photos.glob("*.png")).unlink()
    dog, cat = run_group(members(root, "changed", LORA, **own), root / "changed-groups")
    assert "cannot resume at step 1: the instance images" in dog.stopped
    assert not dog.result.finished
    assert cat.result.finished
    assert not cat.stopped


@pytest.fixture
def changed_classes(root):
    """One has another picture, one has none any more."""
    added = Path(shutil.copy(root / "classes" / "cat" / "0.png", root / "classes" / "dog" / "added.png"))
    away = shutil.move(root / "classes" / "hat", root / "away")
    yield
    added.unlink()
    shutil.move(away, root / "classes" / "hat")


@pytest.mark.usefixtures("changed_classes")
def test_who_has_ended_with_other_class_images_is_named(root, together):
    """Where they are missing, nobody needs them any more."""
    shutil.copytree(together, root / "ended")
    group = members(root, "ended", LORA)
    with pytest.raises(InputError, match="^dog: .*the class images, their captions or weights changed"):
        is_done(group[0])
    assert [is_done(member) for member in group[1:]] == [True, True]
    dog, *others = run_group(group, root / "groups")
    assert "the class images, their captions or weights changed" in dog.stopped
    assert all(one.result.finished and not one.stopped for one in others)


def test_what_cannot_be_is_refused(root, tmp_path):
    group = members(root, "refused", LORA)
    with pytest.raises(InputError, match="two members are called dog"):
        run_group([group[0], group[0]], tmp_path)
    with locked(root / "refused" / "cat"), pytest.raises(InputError, match="cat is in use by another run"):
        run_group(group[1:2], tmp_path)


def test_who_is_trained_by_another_process_is_named_and_the_others_are_what_they_are(root, together, monkeypatch):
    """Also of a group that has begun, from which they are taken out; who was left out goes on from where it was."""
    group = members(root, "in-use", LORA)
    with monkeypatch.context() as patch:
        patch.setattr(LOOP, killed_at(1))
        run_group(group, root / "in-use-groups")
    with locked(root / "in-use" / "cat"):
        dog, cat, hat = run_group(group, root / "in-use-groups")
    assert [one.result.finished for one in (dog, cat, hat)] == [True, False, True]
    assert [one.in_use for one in (dog, cat, hat)] == [False, True, False]
    assert "cat is in use by another run" in cat.stopped
    assert all(one.result.finished for one in run_group(group, root / "in-use-groups"))
    for member in group:
        assert_close(root / "in-use" / member.name, together / member.name, member.config)
    assert not [*(root / "in-use-groups").glob("*")]
