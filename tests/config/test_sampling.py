# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A sampling option is declared once, and is then known everywhere."""

from dataclasses import fields, replace
from typing import get_args, get_type_hints

import pytest

from dreambooth_jax.checks import check_config
from dreambooth_jax.config import SamplingConfig, keys, load_config
from dreambooth_jax.config.sampler_names import SAMPLER_NAMES, SCHEDULE_NAMES
from dreambooth_jax.diffusion.samplers import SAMPLERS, settings_of
from dreambooth_jax.diffusion.samplers.build import MODEL, OWN
from dreambooth_jax.diffusion.samplers.profiles import PROFILES, ProfileName
from dreambooth_jax.diffusion.schedules.spacings import SPACINGS
from dreambooth_jax.errors import InputError
from dreambooth_jax.evaluation.samples import SampleSettings, draw_rows
from dreambooth_jax.options import SampleOptions
from dreambooth_jax.prepare.class_image_store import Recipe
from dreambooth_jax.prepare.class_images import make
from dreambooth_jax.size import Size
from tests.prepare.fake import FakePipeline

NAMES = [field.name for field in fields(SamplingConfig)]
OTHER = {
    "steps": 7,
    "guidance_scale": 3.0,
    "negative_prompt": "blurry",
    "prompt_syntax": "a1111",
    "emphasis": "no_norm",
    "wildcards": "words",
    "clip_skip": 2,
    "sampler": "ddpm",
    "schedule": "karras",
    "profile": "comfy",
    "eta": 0.5,
    "ancestral_eta": 0.5,
    "gamma": 0.5,
    "guidance_rescale": 0.7,
    "noise": "philox",
    "noise_seed_delta": 31337,
    "noise_index": 2,
    "height": 16,
    "width": 24,
    "original_height": 400,
    "original_width": 300,
    "crop_top": 3,
    "crop_left": 4,
    "target_height": 100,
    "target_width": 200,
}
"""A value of each that is not the default."""


def test_every_option_has_another_value_here():
    assert list(OTHER) == NAMES
    default = SamplingConfig()
    assert all(getattr(default, name) != value for name, value in OTHER.items())


@pytest.mark.parametrize("name", NAMES)
def test_an_option_is_a_key_of_class_images_and_grids_and_of_sample(name):
    assert {f"prior.{name}", f"samples.{name}"} <= set(keys())
    assert name in keys(SampleOptions)


@pytest.mark.parametrize("name", NAMES)
def test_an_option_reaches_the_pipeline_from_everywhere(name):
    config = load_config(None, [f"{group}.{name}={OTHER[name]}" for group in ("prior", "samples")])
    pipe = FakePipeline()
    recipe = Recipe(prompt="a dog", sampling=config.prior.sampling(size=Size(32, 32)))
    list(make(pipe, recipe, [0]))
    draw_rows(
        pipe, SampleSettings(prompts=["a dog"], num_images=1, sampling=config.samples.sampling(size=Size(32, 32)))
    )
    options = SampleOptions(source="x", **{name: OTHER[name]})
    draw_rows(pipe, SampleSettings(prompts=["a dog"], num_images=1, sampling=options.sampling(size=Size(32, 32))))
    assert [getattr(call["sampling"], name) for call in pipe.calls] == [OTHER[name]] * 3
    assert recipe.record()[name] == OTHER[name]


def test_sides_that_are_not_set_are_the_runs():
    assert (
        SamplingConfig(width=24).sampling(size=Size(16, 16)).height,
        SamplingConfig(width=24).sampling(size=Size(16, 16)).width,
    ) == (
        16,
        24,
    )


def test_whole_numbers_are_real_numbers():
    assert SamplingConfig().changed({"guidance_scale": 3, "steps": 4}) == SamplingConfig(guidance_scale=3.0, steps=4)
    with pytest.raises(TypeError, match="stepz"):
        SamplingConfig().changed({"stepz": 4})


def test_the_samplers_that_can_be_chosen_are_those_that_there_are():
    assert list(SAMPLER_NAMES) == [*SAMPLERS, MODEL]
    assert set(SCHEDULE_NAMES) == {MODEL, *OWN, *SPACINGS}
    assert set(get_args(ProfileName)) == {name for name in PROFILES if name}
    assert get_type_hints(SamplingConfig)["profile"] == ProfileName | None


def test_what_a_sampler_can_be_told_is_an_option():
    assert {name for sampler in SAMPLERS for name in settings_of(sampler)} == set(
        replace(SamplingConfig(), **OTHER).of_sampler
    )


@pytest.mark.parametrize("group", ["prior", "samples"])
def test_an_option_that_the_sampler_does_not_have_is_refused_before_anything_is_read(group):
    settings = ["data.class_noun=dog", f"{group}.eta=0.5"]
    check_config(load_config(None, settings))
    with pytest.raises(
        InputError, match=rf"^{group}.eta is 0.5, but the sampler ddpm has no use for it: leave it out$"
    ):
        check_config(load_config(None, [*settings, f"{group}.sampler=ddpm"]))
