# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What prompts in A1111's syntax do to pictures."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from dreambooth_jax.config import SamplingConfig
from dreambooth_jax.diffusion.samplers import SAMPLERS, build_table
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline import load_pretrained
from dreambooth_jax.pipeline.request import read_request
from dreambooth_jax.pipeline.texts import read_texts
from dreambooth_jax.prompts.limits import LONGEST
from dreambooth_jax.prompts.wildcards import draw
from dreambooth_jax.target import Target
from dreambooth_jax.training.parallel import sharding

FIXTURES = Path(__file__).parents[1] / "fixtures"
RICH = {"prompt_syntax": "a1111", "steps": 2, "output": "float32"}
PLAIN = {"steps": 2, "output": "float32"}
LONG = "a photo of a dog, " * 4


@pytest.fixture(scope="module")
def pipe():
    return replace(load_pretrained(FIXTURES / "legacy_flax_sd15"), target=Target.of(jax.devices()[:1]))


def programs():
    return sharding._mapped._cache_size()


@pytest.mark.parametrize("profile", [None, "diffusers", "a1111", "comfy"])
def test_an_exclamation_mark_is_read_as_the_tool_of_the_profile_does(profile):
    other = load_pretrained(FIXTURES / "legacy_flax_sd21")
    sampling = SamplingConfig(prompt_syntax="a1111", profile=profile)
    nothing = {"negative_prompt": None, "options": {}, "latents": None}
    request = read_request(["a dog!"], sampling=sampling, seed=0, **nothing)
    texts = read_texts(request, other.tokenizers, steps=np.zeros(1), with_guidance=True)
    read = 256 if profile in ("a1111", "comfy") else 0
    assert texts.fields["ids"]["text_encoder"][0, 3] == read


@pytest.mark.slow
def test_prompts_without_syntax_are_drawn_by_the_same_program(pipe):
    plain = pipe(["a dog", "a cat"], negative_prompt="blurry", **PLAIN)
    before = programs()
    for prompts in (["a dog", "a cat"], ["a (dog:1.0)", "a [cat:dog:1.0]"], ["a [dog|dog]", r"\a cat"]):
        np.testing.assert_array_equal(pipe(prompts, negative_prompt="blurry", **RICH), plain)
    assert programs() == before
    literal = pipe(["a (dog)", "[cat|dog]"], negative_prompt="blurry", **PLAIN)
    escaped = pipe([r"a \(dog\)", r"\[cat|dog\]"], negative_prompt="blurry", **RICH)
    np.testing.assert_array_equal(escaped, literal)
    assert np.abs(literal - plain).max() > 1e-3


@pytest.mark.slow
def test_a_picture_does_not_depend_on_longer_or_weighted_prompts_beside_it(pipe):
    prompts = ["a dog", f"a [dog|cat] BREAK {LONG}", "a (cat:1.5)", "a [dog|cat]"]
    negative = ["", "(blurry:0.5)", "cat", ""]
    batch = pipe(prompts, negative_prompt=negative, seed=3, **RICH)
    for i in range(2):
        alone = pipe(prompts[i], negative_prompt=negative[i], seed=3 + i, **RICH)
        np.testing.assert_allclose(batch[i], alone[0], atol=1e-5)
    assert all(np.abs(batch[i] - batch[j]).max() > 1e-3 for i in range(4) for j in range(i))


def test_a_negative_prompt_that_does_not_count_is_not_read(pipe):
    alone = pipe("a dog", guidance_scale=1.0, **RICH)
    np.testing.assert_array_equal(pipe("a dog", guidance_scale=1.0, negative_prompt=LONG, **RICH), alone)


def test_prompts_that_change_are_drawn_by_one_program(pipe):
    first = pipe("a [dog:cat:0.5]", negative_prompt="[a|b]", **RICH)
    before = programs()
    for options in ({"steps": 7}, {"steps": 3, "sampler": "heun"}, {"sampler": "plms"}, {"emphasis": "no_norm"}):
        pipe("a (dog) [at night:0.5]", **(RICH | options))
    at_once, never = (pipe(f"[a dog:a cat:{when}]", negative_prompt="[a|b]", **RICH) for when in ("0", "9"))
    assert programs() == before
    for made, prompt in ((at_once, "a cat"), (never, "a dog")):
        alone = pipe(prompt, negative_prompt="[a|b]", **RICH)
        np.testing.assert_array_equal(made, alone)
        assert np.abs(first - made).max() > 1e-3


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 4])
def test_each_row_of_a_table_has_its_step(pipe, sampler, steps):
    table = build_table(sampler, pipe.schedule, steps)
    of_rows = table.rows.step[: int(table.length)]
    numbers, calls = np.unique(of_rows, return_counts=True)
    np.testing.assert_array_equal(numbers, np.arange(steps))
    assert calls.max() <= 2
    assert (np.diff(table.rows.step) >= 0).all()
    first_calls = table.rows.t[: int(table.length)][np.diff(of_rows, prepend=-1) > 0]
    assert (np.diff(first_calls) < 0).all()


def choices(pipe, prompt, **options):
    sampling = {"prompt_syntax": "a1111"} | options
    request = read_request(prompt, negative_prompt="", seed=0, sampling=None, options=sampling, latents=None)
    table = build_table(request.sampling.sampler, pipe.schedule, request.sampling.steps)
    texts = read_texts(request, pipe.tokenizers, steps=table.rows.step, with_guidance=True)
    return texts.fields["choice"][0, 0, : int(table.length)].tolist()


def test_a_step_of_two_calls_counts_once(pipe):
    assert choices(pipe, "[a:b:2]", steps=4) == [0, 0, 1, 1]
    heun = choices(pipe, "[a:b:2]", steps=4, sampler="heun")
    assert heun[:4] == [0] * 4
    assert set(heun[4:]) == {1}
    assert choices(pipe, "[a|b]", steps=4, sampler="heun")[:6] == [0, 0, 1, 1, 0, 0]


def test_a1111_itself_counts_the_first_step_twice(pipe):
    """It compares a step's number from 0 with a stretch's last step from 1."""
    assert choices(pipe, "[a:b:2]", steps=5, profile="a1111") == [0, 0, 0, 1, 1]
    assert choices(pipe, "[a|b]", steps=5, profile="a1111") == [0, 0, 1, 0, 1]


@pytest.mark.parametrize("syntax", ["plain", "a1111"])
@pytest.mark.parametrize("side", ["prompts", "negative_prompt"])
def test_what_nobody_wrote_is_refused_in_one_line(pipe, syntax, side):
    said = {"prompts": "a dog", side: "dog " * LONGEST}
    with pytest.raises(InputError, match="^a prompt has 200000 characters, of which 50000 may be") as caught:
        pipe(**said, prompt_syntax=syntax)
    assert "\n" not in str(caught.value)


def test_more_layers_than_there_are_cannot_be_skipped(pipe):
    layers = pipe.text_encoder.config.num_hidden_layers
    with pytest.raises(InputError, match=rf"^clip_skip = {layers + 1}: must be at most {layers}"):
        pipe("a dog", clip_skip=layers + 1)


def test_wildcards_are_drawn_from_the_seed_of_each_picture(pipe):
    prompt, negative = "a {dog|cat|backpack}", "{blurry|dog}"
    made = pipe([prompt] * 3, negative_prompt=negative, seed=[4, 9, 4], **RICH)
    prompts = [draw(prompt, seed=seed) for seed in (4, 9, 4)]
    negatives = [draw(negative, seed=seed, side="negative") for seed in (4, 9, 4)]
    np.testing.assert_array_equal(made, pipe(prompts, negative_prompt=negatives, seed=[4, 9, 4], **RICH))
    np.testing.assert_array_equal(made[0], made[2])
    literal = pipe([prompt] * 3, negative_prompt=negative, seed=[4, 9, 4], **PLAIN)
    assert np.abs(literal - made).max() > 1e-3


@pytest.mark.slow
def test_prompts_of_several_lengths_change_pictures_that_are_given(pipe):
    """Each row has its own picture, noise and prompt, whichever are run together."""
    given = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    prompts = [f"a dog BREAK {LONG}", "a cat"]
    run = RICH | {"strength": 0.6, "steps": 3, "sampler": "euler_a", "noise": "torch"}
    both = pipe(prompts, image=list(given), seed=[3, 8], **run)
    for i in range(2):
        alone = pipe(prompts[i], image=given[i], seed=[3, 8][i], **run)
        np.testing.assert_allclose(both[i], alone[0], atol=1e-5)
    assert np.abs(both[0] - both[1]).max() > 1e-2
