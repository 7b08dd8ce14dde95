# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""No value of a single setting gets further than one line."""

import dataclasses
import math
import re
import time
from typing import get_args

import pytest

from dreambooth_jax.checks import check_config
from dreambooth_jax.cli import main
from dreambooth_jax.config import Config, load_config
from dreambooth_jax.config.parse import key_types
from dreambooth_jax.config.setting import broken, rules_of
from dreambooth_jax.errors import InputError
from dreambooth_jax.options import ExportOptions, SampleOptions

TYPES = key_types(Config)


def keys_of(kind):
    return [key for key, found in TYPES.items() if found is kind or kind in get_args(found)]


def refuse(*overrides):
    with pytest.raises(InputError) as error:
        check_config(load_config(None, ["data.class_noun=dog", *overrides]))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    return str(error.value)


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "1e39", "-1e39"])
@pytest.mark.parametrize("key", keys_of(float))
def test_no_number_is_more_than_float32_holds(key, value):
    assert refuse(f"{key}={value}").startswith(f"{key} is ")


@pytest.mark.parametrize("value", ["99999999999999999999", "-99999999999999999999", "3000000000000"])
@pytest.mark.parametrize("key", keys_of(int))
def test_no_whole_number_is_more_than_the_devices_hold(key, value):
    assert refuse(f"{key}={value}").startswith(f"{key} is ")


def bounds():
    def walk(settings, prefix=""):
        for field in dataclasses.fields(settings):
            if dataclasses.is_dataclass(field.type):
                yield from walk(field.type, f"{prefix}{field.name}.")
            for name in ("at_least", "above", "at_most", "below"):
                if (bound := getattr(rules_of(field), name)) is not None:
                    whole = field.type is int or int in get_args(field.type)
                    yield prefix + field.name, name, bound, whole

    return list(walk(Config))


@pytest.mark.parametrize(("key", "name", "bound", "whole"), bounds())
def test_a_bound_is_where_it_is_said_to_be(key, name, bound, whole):
    """The last value inside is taken, the first one outside refused."""
    up = {"at_least": -1, "above": -1, "at_most": 1, "below": 1}[name]
    beyond = bound + up if whole else math.nextafter(bound, up * math.inf)
    outside = beyond if name.startswith("at_") else bound
    inside = bound if name.startswith("at_") else (bound - up if whole else math.nextafter(bound, -up * math.inf))
    if key == "data.resolution":
        inside = math.ceil(inside / 8) * 8

    def is_broken(value):
        return key in {one for one, _, _ in broken(load_config(None, [f"{key}={value!r}"]))}

    assert is_broken(outside)
    assert not is_broken(inside)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.seed=99999999999999999999", "but must be at least 0 and below 4294967296"),
        ("train.seed=-1", "train.seed is -1"),
        ("prior.seed=-1", "prior.seed is -1"),
        ("samples.seed=4294967296", "samples.seed is 4294967296"),
        ("train.steps=3000000000", "train.steps is 3000000000, but must be at least 1 and at most 10000000"),
        ("data.resolution=1000000", "data.resolution is 1000000"),
        ('optimizer.no_decay=["("]', "but must be a regular expression (missing ), unterm"),
        ("optimizer.no_decay=*", "optimizer.no_decay is ('*',), but must be a regular expression"),
        ("optimizer.eps=-1", "optimizer.eps is -1"),
        ("optimizer.power=-2", "optimizer.power is -2"),
        ("checkpoint.keep_every=-3", "checkpoint.keep_every is -3"),
        ("text_encoder.learning_rate=.nan", "text_encoder.learning_rate is nan"),
        ("text_encoder.learning_rate=-1", "text_encoder.learning_rate is -1"),
        ("samples.guidance_scale=.nan", "samples.guidance_scale is nan"),
        ("prior.guidance_scale=.inf", "prior.guidance_scale is inf"),
        ('samples.prompts=[""]', "samples.prompts has an empty prompt"),
        ("samples.class_prompts=[] samples.prompts=[]", "samples.prompts is empty"),
        ("samples.height=17", "samples.height is 17, but must be a multiple of 8"),
        ("train.log_every=1" + "0" * 900, "train.log_every is a number of 901 digits"),
        ("optimizer.learning_rate=1" + "0" * 400, "a number is too large"),
        ("train.steps=" + "9" * 5000, "must be a single value"),
        ("run_dir=", "run_dir is empty"),
        ("run_dir=  ", "run_dir is empty"),
        ("model.revision=", "model.revision is empty"),
        ("prior.class_images=", "prior.class_images is empty"),
        ("train.steps=", "train.steps is empty"),
        ("samples.prompts=", "samples.prompts is empty"),
        ("data.class_noun=\udcff", "must be text"),
    ],
)  # fmt: skip
def test_each_is_one_line_that_names_the_key(override, message):
    key = override.partition("=")[0]
    overrides = override.split(" ") if "] " in override else [override]
    found = refuse(*overrides)
    assert message in found
    assert key in found or "too large" in found


def test_a_million_steps_are_looked_at_at_once(capsys):
    assert main(["train", "data.class_noun=dog", "train.steps=0"]) == 2  # with all that it imports
    capsys.readouterr()
    began = time.process_time()
    assert main(["train", "data.class_noun=dog", "train.steps=3000000000"]) == 2
    assert time.process_time() - began < 20
    assert "train.steps is 3000000000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_images": 0}, "num_images = 0: must be at least 1"),
        ({"height": 0}, "height = 0: must be at least 1"),
        ({"height": 100000}, "height = 100000"),
        ({"seed": -1}, "seed = -1"),
        ({"steps": 0}, "steps = 0"),
        ({"eta": 2}, "eta = 2"),
        ({"guidance_scale": "nan"}, None),
        ({"guidance_scale": ".nan"}, "guidance_scale = nan: must be"),
        ({"out": ""}, "out = empty"),
    ],
)
def test_what_sample_is_told_has_the_same_bounds(capsys, options, message):
    assert main(["sample", "embedded", "a dog", *(f"{key}={value}" for key, value in options.items())]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message is None or message in line


def test_an_empty_word_is_no_folder(capsys):
    assert main(["export", "embedded", ""]) == 2
    assert "out = empty" in capsys.readouterr().err
    assert main(["export", "", "x"]) == 2
    assert "source = empty" in capsys.readouterr().err


def test_the_users_home_is_written_as_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load_config(None, ["run_dir=~/runs/dog", "data.instance_images=~/photos", "model.path=~/model"])
    assert (config.run_dir, config.data.instance_images, config.model.path) == tuple(
        str(tmp_path / name) for name in ("runs/dog", "photos", "model")
    )
    assert Config(run_dir="~/x").run_dir == str(tmp_path / "x")
    assert SampleOptions(source="~/a", out="~/b").out == str(tmp_path / "b")
    assert ExportOptions(source="~/a", out="~/b").source == str(tmp_path / "a")
    assert Config(run_dir="~nobody-of-this-name/x").run_dir == "~nobody-of-this-name/x"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.instance_prompt=a photo of a dog", r"has no {identifier}: .* 'sks' learns nothing"),
        ("data.instance_prompt=a photo of sks dog, {class_noun", "a brace without its partner"),
        ("data.instance_prompt=a photo of {identifier dog", "a brace without its partner"),
        ("samples.prompts=a {identifier} {class_noun; b", "samples.prompts 'a {identifier} {class_noun' has a brace"),
        ("prior.class_prompt=a photo of {identifier} {class_noun}", "must be called without the subject's word"),
    ],
)
def test_what_can_hardly_be_meant_is_a_warning(caplog, override, message):
    check_config(load_config(None, ["data.class_noun=dog"]))
    assert not caplog.messages
    check_config(load_config(None, ["data.class_noun=dog", override]))
    assert any(re.search(message, line) for line in caplog.messages)


def test_a_prompt_that_has_the_word_itself_is_fine(caplog):
    check_config(load_config(None, ["data.class_noun=dog", "data.instance_prompt=a photo of sks dog"]))
    assert not caplog.messages
