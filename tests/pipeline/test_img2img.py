# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Laws of runs that start from a picture."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from dreambooth_jax.data.pictures import covering, picture_size
from dreambooth_jax.diffusion.sampler_defaults import SamplerDefaults
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline import load_pretrained
from dreambooth_jax.pipeline.program import part_run, program_of
from dreambooth_jax.pipeline.request import read_request
from dreambooth_jax.pipeline.sizes import placed
from dreambooth_jax.size import Size
from dreambooth_jax.target import Target
from dreambooth_jax.training.parallel import sharding
from tests.pipeline.diffusers_noise import posterior_noise

MODEL = Path(__file__).parents[1] / "fixtures" / "legacy_flax_sd15"
PROMPTS = ["a photo of sks dog", "a dog"]
LATENTS = {"output": "latents", "seed": 5}


@pytest.fixture(scope="module")
def pipe():
    """Nothing is clipped, so that small changes stay small."""
    pipe = load_pretrained(MODEL)
    schedule = replace(pipe.schedule, sampling=SamplerDefaults())
    return replace(pipe, schedule=schedule, target=Target.of(jax.devices()[:2]))


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).uniform(size=(2, 16, 20, 3)).astype("float32")


def test_every_kind_of_picture_is_the_same_picture(pipe, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)
    file = tmp_path / "picture.png"
    Image.fromarray(array).save(file)
    found = [
        pipe(PROMPTS, image=image, steps=2, **LATENTS)
        for image in (array, file, str(file), Image.fromarray(array), array / np.float32(255), [array] * 2)
    ]
    assert found[0].shape == (2, 8, 10, 4), "height and width are the picture's own"
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-5)


def test_the_less_strength_the_nearer(pipe, pictures):
    """One step of fifty gives nearly the latents that are drawn of the picture; nearly all of them forget it."""
    mean, logvar = map(np.asarray, pipe.encode_images(pipe.params, 2 * pictures - 1))
    noise = posterior_noise((5, 6), mean.shape[1:], "float32")
    latents = (mean + np.exp(logvar / 2) * noise) * pipe.vae.config.scaling_factor
    distances = [
        np.abs(pipe(PROMPTS, image=pictures, strength=s, guidance_scale=1.0, **LATENTS) - latents).mean()
        for s in (0.02, 0.2, 0.9)
    ]
    assert distances == sorted(distances)
    assert distances[0] < 0.1 * distances[-1]


@pytest.mark.parametrize(
    ("options", "calls"),
    [
        ({}, 7),  # min(int(0.75 · 10), 10)
        ({"profile": "diffusers"}, 7),
        ({"profile": "a1111"}, 8),  # int(0.75 · 10) + 1
        ({"profile": "comfy"}, 10),
        ({"fixed_steps": True}, 10),
        ({"fixed_steps": True, "profile": "a1111"}, 10),
        ({"strength": 1.0, "profile": "a1111"}, 10),
        ({"sampler": "heun"}, 13),  # two calls a step, one in the last: never begun in the middle of a step
    ],
)
def test_how_many_steps_are_run(pipe, pictures, options, calls):
    options = {"sampler": "euler", "schedule": "karras", "strength": 0.75} | options
    _, shared = _program(pipe, pictures, steps=10, **options)
    assert shared.table.length == calls


def _program(pipe, pictures, **options):
    nothing = {"negative_prompt": None, "sampling": None, "latents": None}
    request = read_request("a dog", seed=0, options=options, image=pictures[0], **nothing)
    request, _ = placed(pipe, request)
    return program_of(pipe, request.sampling, part_run(request.sampling))


def test_all_steps_of_the_same_levels(pipe, pictures):
    """Five fixed steps at half strength are the last five of ten."""

    def drawn(**options):
        return pipe(PROMPTS[:1], image=pictures[0], sampler="euler", schedule="karras", **options, **LATENTS)

    np.testing.assert_array_equal(drawn(steps=5, strength=0.5, fixed_steps=True), drawn(steps=10, strength=0.5))
    assert np.abs(drawn(steps=10, strength=0.5) - drawn(steps=10, strength=0.6)).max() > 1e-3


def test_a_picture_is_its_own_whatever_stands_beside_it(pipe, pictures):
    both = pipe(PROMPTS, image=pictures, steps=4, sampler="euler_a", output="latents", seed=5)
    alone = pipe(PROMPTS[1], image=pictures[1], steps=4, sampler="euler_a", output="latents", seed=6)
    np.testing.assert_allclose(alone[0], both[1], atol=1e-4)


def test_one_program_for_all_strengths(pipe, pictures):
    pipe(PROMPTS, image=pictures, steps=4, **LATENTS)
    before = sharding._mapped._cache_size()
    for strength, sampler in ((0.3, "ddim"), (1.0, "heun"), (0.9, "dpmpp_2m")):
        pipe(PROMPTS, image=pictures, steps=7, strength=strength, sampler=sampler, **LATENTS)
    assert sharding._mapped._cache_size() == before


def test_size_is_told_or_the_pictures_own():
    wide = np.zeros((17, 35, 3), np.float32)
    for told, size in (((None, None), (16, 34)), ((8, None), (8, 16)), ((None, 70), (34, 70)), ((12, 16), (12, 16))):
        assert picture_size(wide, height=told[0], width=told[1], factor=2, most=4096) == size


def test_the_middle_is_cut_to_the_aspect():
    """A picture of columns loses as many on the left as on the right; nothing is rounded where no size changes."""
    columns = np.broadcast_to(np.linspace(0, 1, 32, dtype=np.float32)[None, :, None], (8, 32, 3))
    middle = covering(columns, Size(8, 16))
    np.testing.assert_allclose(middle, columns[:, 8:24], atol=1e-6)
    assert covering(columns, Size(8, 32)) is columns


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"image": "nowhere.png"}, "nowhere.png: no such file"),
        ({"image": 3}, "image is a int: give a file"),
        ({"image": []}, "image is empty"),
        ({"image": np.zeros((4, 4))}, r"image has the shape \(4, 4\)"),
        ({"image": np.zeros((4, 4, 3), int)}, "image is of int64: must be uint8"),
        ({"image": np.full((4, 4, 3), 2.0)}, "image has values from 2 to 2"),
        ({"image": np.full((4, 4, 3), np.nan)}, "image has values from nan"),
        ({"image": [np.zeros((4, 4, 3)), np.zeros((4, 6, 3))]}, "image: pictures of one call need one size"),
        ({"image": [np.zeros((4, 4, 3))] * 3}, "image = '3 pictures': give one, or one for each of 1"),
        ({"image": np.zeros((1, 1, 3))}, "image is 1x1: give the width and height"),
        ({"image": np.zeros((4, 5000, 3))}, "image is 5000x4: give the width and height"),
        ({"image": np.zeros((4, 4, 3)), "strength": 0}, "strength = 0"),
        ({"image": np.zeros((4, 4, 3)), "strength": 0.01, "steps": 10}, "strength = 0.01: leaves none of 10 steps"),
        ({"image": np.zeros((4, 4, 3)), "fixed_steps": 1}, "fixed_steps = 1: must be a bool"),
    ],
)
def test_wrong_pictures_are_named(untyped, pipe, arguments, named):
    with pytest.raises(InputError, match=f"^{named}"):
        pipe("a dog", **arguments)
