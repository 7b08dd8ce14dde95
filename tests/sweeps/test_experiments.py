# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Experiments that ship: each has a file for Stable Diffusion and one for the embedded model, which ask the same."""

import json
import re
import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from dreambooth_jax.cli.parsing import read_call
from dreambooth_jax.cli.sweep import SWEEP, planned
from dreambooth_jax.config.concepts import concepts_of
from dreambooth_jax.prepare.photos import read_instance_photos
from dreambooth_jax.sweeps.run import run_sweep
from tests.runs import MODEL, draw_photos

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs" / "experiments").glob("*.yaml"))
EXPERIMENTS = [path.stem for path in FILES if not path.stem.endswith("_embedded")]


def command_of(name):
    """The words after ``dreambooth-jax sweep`` in the comment that a file begins with."""
    text = (ROOT / "configs" / "experiments" / f"{name}.yaml").read_text()
    return shlex.split(re.search(r"^#   dreambooth-jax sweep (.*)$", text, re.MULTILINE)[1])


@cache
def members_of(name):
    call = read_call(SWEEP, command_of(name))
    return planned(call, call.taken, within="members")


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_the_command_in_a_file_is_of_this_file_and_can_be_planned(name):
    sweep, members = members_of(name)
    assert f"configs/experiments/{name}.yaml" in command_of(name)
    assert sweep.folder == Path("runs") / name
    assert members
    assert all("{" not in prompt.format(identifier="", class_noun="") for prompt in members[0].config.samples.prompts)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_embedded_model_is_asked_the_same(name):
    """The same things are varied, and what is drawn with which settings; seeds of training may come on top."""
    real, embedded = members_of(name)[0], members_of(f"{name}_embedded")[0]

    def axes(sweep):
        return {axis.key for axis in sweep.axes if axis.key != "train.seed"}, {
            word.partition("=")[0] for word in shlex.split(sweep.grid)
        }

    if name == "class_prompts":  # six experiments in a row there, two by three here
        assert axes(real) == ({"experiment"}, {"seed"})
        assert axes(embedded) == ({"encoder", "class"}, {"seed"})
    else:
        assert axes(real) == axes(embedded)


def test_of_six_experiments_on_class_prompts_those_of_one_model_are_all_there():
    """Of each: is the class called by the words that its pictures were made with, are these special, is the text
    encoder trained late?"""

    def asked(config):
        prior = config.prior
        special = prior.class_images_prompt not in ("a photo of {class_noun}", "an {class_noun}")
        return prior.class_prompt == prior.class_images_prompt, special, config.text_encoder.stop != 0

    real, embedded = (members_of(f"class_prompts{end}")[1] for end in ("", "_embedded"))
    assert {asked(one.config) for one in real[:6]} == {asked(one.config) for one in embedded}
    assert len({asked(one.config) for one in real[:6]}) == 6


def test_the_other_two_of_them_ask_the_same_of_other_models():
    """Words and encoder are those of the second; what differs is the model, or the size that it is used at."""

    def asked(config):
        return config.prior.class_prompt, config.prior.class_images_prompt, config.text_encoder.stop

    second, fifth, sixth = (members_of("class_prompts")[1][number].config for number in (3, 6, 7))
    real, embedded = ([one.config for one in members_of(f"base_models{end}")[1]] for end in ("", "_embedded"))
    assert [one.model.path for one in real[:3]] == [one.model.path for one in (second, fifth, sixth)]
    assert {asked(one) for one in real} == {asked(second)} == {asked(fifth)} == {asked(sixth)}
    assert {asked(one) for one in embedded} == {("an {class_noun}", "a green {class_noun}", 0)}
    for some in (real, embedded):
        assert len({one.model.path for one in some}) > 1
        assert len({one.data.resolution for one in some}) == 2


def test_pictures_of_the_package_are_there_with_captions():
    _, (member, *_) = members_of("style_embedded")
    photos = read_instance_photos(concepts_of(member.config)[0], member.config.data)
    assert len(photos) == 10
    assert all(photo.prompt == f"a sks {Path(photo.name).stem}" for photo in photos)


def tiny(member, *, photos, folder):
    """The member on a model of a few hundred kilobytes, with its stretches of training in two steps."""
    config = member.config
    text_encoder = replace(config.text_encoder, start=min(config.text_encoder.start, 1))
    if config.text_encoder.stop > 0:
        text_encoder = replace(text_encoder, stop=2)
    config = replace(
        config,
        run_dir=str(folder / "members" / member.name),
        model=replace(config.model, path=str(MODEL)),
        data=replace(config.data, instance_images=str(photos), resolution=16, bucket_step=8, buckets=1),
        prior=replace(config.prior, num_images=1, steps=1, class_images=None, batch_size=1),
        text_encoder=text_encoder,
        # the small tokenizer has a token for each letter
        tokens=replace(config.tokens, mean=config.adapter.kind == "textual_inversion"),
        train=replace(config.train, steps=2, batch_size=1),
        samples=replace(config.samples, steps=1, every=0, prompts=config.samples.prompts[:1]),
    )
    return replace(member, config=config)


def kind_of_program(member):
    config = member.config
    return config.adapter.kind, config.prior.weight > 0, config.text_encoder.stop


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:ResourceWarning")
@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_each_runs_at_tiny_size(name, tmp_path):
    """A member of each kind of program, to the overview."""
    photos = draw_photos(tmp_path / "photos", 2)
    sweep, members = members_of(name)
    chosen = {kind_of_program(member): member for member in members}.values()
    names = {member.name for member in chosen}
    grid = " ".join(re.sub(r",.*", "", word) for word in sweep.grid.split())
    sweep = replace(
        sweep, folder=tmp_path / "run", grid=grid, cells=tuple(cell for cell in sweep.cells if cell.name in names)
    )
    result = run_sweep(sweep, [tiny(one, photos=photos, folder=sweep.folder) for one in chosen])
    said = json.loads((sweep.folder / "overview.json").read_text())
    assert [one["finished"] for one in said["members"]] == [True] * len(names)
    assert all(one["step"] == 2 for one in said["members"])
    with Image.open(result.picture) as sheet:
        assert sheet.height > 16 * len(names)
