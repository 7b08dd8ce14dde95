# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Whole runs of members in one program: each is what it is alone, killed and resumed or not, whatever the others do."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import dreambooth_jax as dbx
from dreambooth_jax import rng, trees
from dreambooth_jax.adapters import make_adapter
from dreambooth_jax.cli import main
from dreambooth_jax.config import load_config
from dreambooth_jax.errors import InputError
from dreambooth_jax.locks import locked
from dreambooth_jax.members import Member
from dreambooth_jax.runs import open_model
from dreambooth_jax.target import Target
from dreambooth_jax.trainer.members import run_group
from tests.runs import MODEL, assert_same, draw_photos, killed_at, weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_device"),
    pytest.mark.filterwarnings("ignore:.*:ResourceWarning"),
]

LOOP = "dreambooth_jax.trainer.members.run.run_phases"
TINY = [
    *("data.resolution=16", "train.batch_size=2", "train.log_every=1", "checkpoint.every=2", f"model.path={MODEL}"),
    *("prior.num_images=0", "samples.every=0", "validation.holdout=1", "validation.every=3", "validation.timesteps=1"),
]
LORA = [
    *("adapter.kind=lora", "adapter.rank=2", "adapter.targets=attn-only", "text_encoder.stop=0"),
    *("optimizer.warmup_steps=2", "train.ema_decay=0.5"),
]
WORDS = ["tokens.vectors=2", "tokens.learning_rate=1e-2"]
INVERSION = ["adapter.kind=textual_inversion", *WORDS]
PIVOTAL = [
    *("adapter.kind=pivotal", *WORDS, "tokens.alone=2", "tokens.stop=2", "text_encoder.stop=0"),
    *("adapter.rank=2", "adapter.targets=attn-only"),
]
OWN = {
    "dog": ["optimizer.learning_rate=1e-2", "train.steps=4", "data.class_noun=dog"],
    "cat": ["optimizer.learning_rate=3e-3", "train.steps=6", "train.seed=3", "data.class_noun=cat", "prior.weight=0.5"],
    "hat": ["optimizer.learning_rate=5e-3", "train.steps=5", "train.seed=7", "data.class_noun=dog"],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("members")
    for number, name in enumerate(OWN):
        draw_photos(root / "photos" / name, 3 + number)
        draw_photos(root / "classes" / name, 1 + number)
    return root


def members(root, folder, settings, **own):
    """Of the table above, or of those that have more settings, each in its own folder."""

    def config(name):
        places = [f"data.instance_images={root / 'photos' / name}", f"run_dir={root / folder / name}"]
        places.append(f"prior.class_images={root / 'classes' / name}")
        return load_config(None, [*TINY, *settings, *OWN[name], *places, *own.get(name, [])])

    return [Member(name=name, config=config(name)) for name in own or OWN]


def lines(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in found]


def assert_as_alone(folder, config):
    """What a member has left is what it leaves alone, but for the order in which float32 is summed up over rows."""
    alone, steps = dbx.train(config).folder, config.train.steps
    for one, other in zip(lines(folder), lines(alone), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    found, expected = weights(folder, steps), weights(alone, steps)
    assert found.keys() == expected.keys()
    start = beginning(config)
    for name, leaf in expected.items():
        moved = np.abs(leaf - start[name]).max()
        assert moved > 0, name
        assert np.abs(found[name] - leaf).max() <= 1e-2 * moved, name
    for file in ("config.yaml", "exported.json", "lora.safetensors", "embedding.safetensors"):
        assert (folder / file).exists() == (alone / file).exists(), file
    assert (folder / "exported.json").read_text() == (alone / "exported.json").read_text()


def beginning(config):
    """Leaves that are trained, before the first step."""
    pipe = dbx.load_pretrained(MODEL)
    _, trainable = make_adapter(config, pipe.tokenizers).init(rng.root_key(config.train.seed), pipe.params)
    return {name: np.asarray(leaf) for name, leaf in trees.flatten(trainable).items()}


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
    for member in group:
        folder, last = root / f"killed-{step}" / member.name, member.config.train.steps
        assert_same(weights(folder, last), weights(together / member.name, last))
        assert_same(weights(folder, last, ema=True), weights(together / member.name, last, ema=True))
        assert lines(folder) == lines(together / member.name)
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


@pytest.mark.parametrize(("kind", "settings"), [("inversion", INVERSION), ("pivotal", PIVOTAL)])
def test_words_of_several_subjects_are_learned_at_once(root, kind, settings):
    own = {name: [f"data.identifier=<{name}>", "prior.weight=0"] for name in ("dog", "cat")}
    group = members(root, kind, settings, **own)
    assert all(one.result.finished for one in run_group(group, root / "groups"))
    for name in own:
        assert [*load_file(root / kind / name / "embedding.safetensors")] == [f"<{name}>"]
    (alone,) = members(root, f"{kind}-alone", settings, cat=own["cat"])
    assert_as_alone(root / kind / "cat", alone.config)


def test_what_cannot_be_is_refused(root, tmp_path):
    group = members(root, "refused", LORA)
    with pytest.raises(InputError, match="two members are called dog"):
        run_group([group[0], group[0]], tmp_path)
    with locked(root / "refused" / "cat"), pytest.raises(InputError, match="cat is in use by another run"):
        run_group(group, tmp_path)
