# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Whole runs whose prior term is a teacher's."""

import json

import numpy as np
import pytest
from safetensors import safe_open

import dreambooth_jax as dbx
from dreambooth_jax.config.concepts import concepts_of
from dreambooth_jax.errors import InputError
from dreambooth_jax.prepare.lessons import lesson_prompts
from tests.runs import assert_same, cut_short, tiny_config, weights

TEACHER = ("prior.kind=teacher", "prior.weight=0.5", "prior.prompts=a photo of a cat; a photo of {identifier} plush")


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_no_class_image_is_made_and_a_killed_run_goes_on_bit_for_bit(tmp_path, adapter):
    """The text encoder is trained for a while: its teacher's texts stay those of before."""
    settings = (*TEACHER, "train.steps=4", "checkpoint.every=2", "text_encoder.stop=3", f"adapter.kind={adapter}")
    whole = dbx.train(tiny_config(tmp_path, *settings, f"run_dir={tmp_path / 'whole'}")).folder
    assert not (tmp_path / "class").exists()
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert all(line["prior_loss"] > 0 for line in lines[1:])
    assert all(np.isclose(line["loss"], line["instance_loss"] + line["prior_loss"], rtol=1e-5) for line in lines)
    if adapter == "lora":
        with safe_open(whole / "lora.safetensors", "np") as file:
            assert file.metadata()["ss_num_reg_images"] == "0"
    halves = cut_short(whole, 2, tmp_path / "two")
    dbx.train(tiny_config(tmp_path, *settings, f"run_dir={halves}"))
    assert_same(weights(halves, 4), weights(whole, 4))


def test_prompts_are_the_class_more_and_other_subjects(tmp_path):
    concepts = [
        {"identifier": "sks", "class_noun": "dog", "instance_images": "a"},
        {"identifier": "zwx", "class_noun": "cat", "instance_images": "b"},
    ]
    config = tiny_config(
        tmp_path,
        *TEACHER,
        "data.instance_images=",
        f"data.concepts={json.dumps(concepts)}",
        "prior.other_subjects=true",
    )
    asked = [lesson_prompts(config, one) for one in concepts_of(config)]
    assert asked[0] == (*("a photo of a dog", "a photo of a cat", "a photo of sks plush", "a photo of zwx cat"),)
    assert asked[1] == (*("a photo of a cat", "a photo of zwx plush", "a photo of sks dog", "a photo of a dog"),)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["prior.prompts=a cat"], "prior.prompts is .*, but pictures have no use for it: set prior.kind=teacher"),
        (["prior.kind=teacher", "prior.other_subjects=true"], "there is one subject only: list them in data.concepts"),
    ],
)
def test_settings_of_a_teacher_that_do_nothing_are_refused(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        dbx.train(tiny_config(tmp_path, *settings))


def test_the_verb_for_class_images_says_that_there_are_none(tmp_path):
    from dreambooth_jax.prepare.class_photos import make_class_images

    with pytest.raises(InputError, match="prior.kind is teacher: this run uses no class images"):
        make_class_images(tiny_config(tmp_path, *TEACHER))
