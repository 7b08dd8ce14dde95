# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dreambooth_jax.config import SamplingConfig
from dreambooth_jax.config.sampler_names import SAMPLER_NAMES, SCHEDULE_NAMES
from dreambooth_jax.diffusion.sampler_defaults import SamplerDefaults
from dreambooth_jax.diffusion.samplers import SAMPLERS
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.errors import InputError
from dreambooth_jax.flops import flops
from dreambooth_jax.pipeline import load_pretrained
from dreambooth_jax.pipeline.generate import draw_latents, generate
from dreambooth_jax.pipeline.program import program_of
from dreambooth_jax.pipeline.request import read_request
from dreambooth_jax.pipeline.rows import rows_of
from dreambooth_jax.pipeline.texts import read_texts
from dreambooth_jax.target import Target
from dreambooth_jax.training.parallel import sharding

FIXTURES = Path(__file__).parent / "fixtures"
PROMPTS = ["a photo of sks dog", "a dog", "a photo of a backpack"]
QUICK = {"steps": 3, "output": "float32"}


@pytest.fixture(scope="module")
def pipe():
    return load_pretrained(FIXTURES / "legacy_flax_sd15")


@pytest.mark.parametrize("kind", ["sd15", "sd21"])
def test_reproduces_the_legacy_flax_pipeline(kind, pipe):
    """What diffusers' own Flax classes computed of the same files."""
    folder = FIXTURES / f"legacy_flax_{kind}"
    pipe = pipe if kind == "sd15" else load_pretrained(folder)
    stated = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert stated["clip_sample"], "which the legacy pipeline did, and PyTorch's does not"
    pipe = replace(pipe, schedule=NoiseSchedule.from_config(stated))
    reference = np.load(FIXTURES / f"legacy_flax_{kind}" / "reference.npz")
    prompts = reference["prompts"].tolist()
    np.testing.assert_array_equal(pipe.tokenizer(prompts), reference["input_ids"])
    np.testing.assert_allclose(pipe.encode_prompts(pipe.params, prompts), reference["text_hidden"], atol=1e-5)
    mean, logvar = pipe.encode_images(pipe.params, reference["vae_image"].transpose(0, 2, 3, 1))
    np.testing.assert_allclose(mean, reference["vae_mean"], atol=1e-5 * np.abs(reference["vae_mean"]).max())
    np.testing.assert_allclose(logvar, reference["vae_logvar"], atol=1e-5 * np.abs(reference["vae_logvar"]).max())
    np.testing.assert_array_equal(pipe.schedule.timesteps(5), reference["ddim_timesteps"])

    run = {
        "latents": reference["unet_sample"].transpose(0, 2, 3, 1),
        "guidance_scale": float(reference["guidance_scale"]),
        "steps": 5,
    }
    latents = pipe(prompts, output="latents", **run).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(latents, reference["ddim_latents"], atol=1e-3)
    images = pipe(prompts, output="float32", **run).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(images, np.clip(reference["ddim_image"] / 2 + 0.5, 0, 1), atol=1e-3)


def test_a_picture_is_its_own_whatever_stands_beside_it(pipe):
    batch = pipe(PROMPTS, seed=5, eta=0.5, negative_prompt=["", "blurry", "cat"], **QUICK)
    alone = pipe(PROMPTS[1], seed=6, eta=0.5, negative_prompt="blurry", **QUICK)
    np.testing.assert_allclose(alone[0], batch[1], atol=1e-6)
    listed = pipe(PROMPTS[::-1], seed=[7, 6, 5], eta=0.5, negative_prompt=["cat", "blurry", ""], **QUICK)
    np.testing.assert_allclose(listed[::-1], batch, atol=1e-6)


def test_the_number_of_devices_does_not_matter(pipe):
    eight = pipe(PROMPTS, eta=0.5, **QUICK)
    one = replace(pipe, target=Target.of(jax.devices()[:1]))
    np.testing.assert_allclose(one(PROMPTS, eta=0.5, **QUICK), eight, atol=1e-4)


def test_one_program_for_one_shape(pipe):
    pipe(PROMPTS, **QUICK)
    before = sharding._mapped._cache_size()
    pipe(PROMPTS[:2], steps=7, guidance_scale=3, eta=1, seed=8, negative_prompt="blurry")
    for sampler in SAMPLERS:
        pipe(PROMPTS, steps=2, sampler=sampler)
    replace(pipe, params=jax.tree.map(np.asarray, pipe.params))(PROMPTS, steps=1)
    assert sharding._mapped._cache_size() == before


def test_two_programs_for_all_samplers(pipe):
    """With guidance and without: nothing else that can be told is compiled in, or changes a shape or a dtype."""
    programs = set()
    told = [{}, {"eta": 0.3}, {"ancestral_eta": 0.5, "sampler": "euler_a"}, {"guidance_rescale": 0.7}]
    told += [
        {"sampler": sampler, "schedule": schedule, "profile": (None, "diffusers", "a1111", "comfy")[(i + j) % 4]}
        for i, sampler in enumerate(SAMPLER_NAMES)
        for j, schedule in enumerate(SCHEDULE_NAMES)
    ]
    for number, options in enumerate(told):
        for guidance_scale in (1.0, 7.5):
            sampling = SamplingConfig(steps=(1, 7, 50)[number % 3], guidance_scale=guidance_scale, **options)
            static, *shared = program_of(pipe, sampling)
            leaves, structure = jax.tree.flatten(shared)
            programs.add((static, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)))
    assert len(programs) == 2


def test_no_guidance_asks_the_networks_once_instead_of_twice(pipe):
    request = read_request(PROMPTS, negative_prompt="", seed=0, sampling=None, options={}, latents=None)
    _, shared = program_of(pipe, request.sampling)
    texts = read_texts(request, pipe.tokenizers, steps=shared.table.rows.step, with_guidance=True)
    rows = rows_of(pipe, pipe.params, request, texts)

    def work(guidance_scale):
        static, *shared = program_of(pipe, SamplingConfig(steps=1, guidance_scale=guidance_scale))
        return flops(partial(generate, *static), pipe.params, rows, *shared)

    def work_of(name, *inputs):
        module = getattr(pipe, name)
        return flops(lambda *inputs: module.apply({"params": pipe.params[name]}, *inputs), *inputs)

    text = pipe.encode_prompts(pipe.params, PROMPTS)
    once = work_of("unet", rows.latents, jnp.zeros(3), text) + work_of("text_encoder", rows.ids["text_encoder"])
    assert work(7.5) - work(1.0) == once
    assert work(1.001) == work(7.5)
    assert work(0.0) == work(1.0)


def test_what_a_picture_depends_on(pipe):
    first = pipe(PROMPTS[0], **QUICK)
    np.testing.assert_array_equal(first, pipe(PROMPTS[0], **QUICK))
    for change in ({"seed": 1}, {"negative_prompt": "blurry"}, {"guidance_scale": 3.0}, {"eta": 1.0}, {"steps": 4}):
        assert np.abs(first - pipe(PROMPTS[0], **{**QUICK, **change})).max() > 1e-3, change


def test_samplers_are_chosen_by_name(pipe):
    """DDPM is DDIM with all its noise and Euler DDIM without, where nothing is clipped and all end at ᾱ = 1."""
    pipe = replace(pipe, schedule=replace(pipe.schedule, sampling=SamplerDefaults()))
    for name, eta in (("ddpm", 1.0), ("euler", 0.0)):
        found, same = pipe(PROMPTS, sampler=name, **QUICK), pipe(PROMPTS, eta=eta, **QUICK)
        np.testing.assert_allclose(found, same, atol=1e-4)
        assert np.abs(found - pipe(PROMPTS, eta=0.5, **QUICK)).max() > 1e-2


def test_no_guidance_is_the_prompt_alone(pipe):
    alone = pipe(PROMPTS[0], guidance_scale=1.0, negative_prompt="blurry", **QUICK)
    np.testing.assert_array_equal(alone, pipe(PROMPTS[0], guidance_scale=0.0, negative_prompt="cat", **QUICK))
    towards_itself = pipe(PROMPTS[0], guidance_scale=7.5, negative_prompt=PROMPTS[0], **QUICK)
    np.testing.assert_allclose(alone, towards_itself, atol=1e-5)


def test_seeds_stand_for_latents_and_noise(pipe):
    _, latents = draw_latents(np.asarray([3, 4], np.uint32), shape=(2, 8, 8, 4))
    np.testing.assert_array_equal(
        pipe(PROMPTS[:2], seed=3, latents=latents, **QUICK), pipe(PROMPTS[:2], seed=3, **QUICK)
    )
    same = {**QUICK, "latents": latents[:1]}
    np.testing.assert_array_equal(pipe(PROMPTS[0], seed=3, **same), pipe(PROMPTS[0], seed=4, **same))
    assert not np.array_equal(pipe(PROMPTS[0], seed=3, eta=1, **same), pipe(PROMPTS[0], seed=4, eta=1, **same))


@pytest.mark.parametrize(("height", "width"), [(18, 14)])
def test_any_size_the_autoencoder_can_make(pipe, height, width):
    """Latents of 9 x 7 here, which no level of the UNet halves evenly."""
    images = pipe(PROMPTS[0], steps=2, height=height, width=width)
    assert images.shape == (1, height, width, 3)
    assert images.dtype == np.uint8
    latents = np.zeros((1, height // 2, width // 2, 4), np.float32)
    assert pipe(PROMPTS[0], steps=2, latents=latents).shape == (1, height, width, 3)


def test_outputs_are_the_same_picture(pipe):
    exact = pipe(PROMPTS[0], **QUICK)
    rounded = pipe(PROMPTS[0], **{**QUICK, "output": "uint8"})
    assert exact.min() >= 0
    assert exact.max() <= 1
    assert np.abs(255 * exact - rounded).max() <= 0.5 + 1e-4
    raw = jnp.asarray(pipe(PROMPTS[0], **{**QUICK, "output": "latents"})) / pipe.vae.config.scaling_factor
    decoded = pipe.vae.apply({"params": pipe.params["vae"]}, raw, method="decode")
    np.testing.assert_allclose(np.clip(decoded / 2 + 0.5, 0, 1), exact, atol=1e-5)


def test_other_parameters_wherever_they_lie(pipe):
    """On the host, or spread over devices as fully sharded training leaves them."""
    mesh = Mesh(np.asarray(jax.devices()).reshape(2, 4), ("data", "fsdp"))

    def scatter(leaf):
        spec = PartitionSpec("fsdp") if leaf.shape[0] % 4 == 0 else PartitionSpec()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    scaled = jax.tree.map(lambda leaf: 1.1 * np.asarray(leaf), pipe.params)
    other = pipe(PROMPTS, params=scaled, **QUICK)
    np.testing.assert_array_equal(pipe(PROMPTS, params=jax.tree.map(scatter, scaled), **QUICK), other)
    np.testing.assert_array_equal(replace(pipe, params=scaled)(PROMPTS, **QUICK), other)
    assert np.abs(other - pipe(PROMPTS, **QUICK)).max() > 1e-3


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"prompts": []}, "prompts"),
        ({"prompts": None}, "prompts"),
        ({"prompts": 5}, "prompts"),
        ({"prompts": b"a dog"}, "prompts"),
        ({"negative_prompt": 3}, "negative_prompt"),
        ({"seed": None}, "seed"),
        ({"seed": "3"}, "seed"),
        ({"seed": 1.5}, "seed = 1.5: must be a whole number"),
        ({"seed": [1.5]}, "seed"),
        ({"seed": True}, "seed"),
        ({"seed": float("nan")}, "seed"),
        ({"seed": np.array([1, 2])}, "seed"),
        ({"steps": 2.0}, "steps = 2.0: must be a whole number"),
        ({"steps": None}, "steps"),
        ({"width": "16"}, "width"),
        ({"guidance_scale": "7"}, "guidance_scale"),
        ({"guidance_scale": None}, "guidance_scale"),
        ({"sampling": {"steps": 2}}, "sampling"),
        ({"params": {}}, "params"),
        ({"latents": [1]}, "latents"),
        ({"latents": np.zeros((1, 0, 0, 4))}, "latents"),
        ({"latents": np.full((1, 8, 8, 4), np.nan)}, "latents"),
        ({"latents": np.zeros((1, 8, 8, 4), complex)}, "latents"),
        ({"negative_prompt": ["a", "b"]}, "negative_prompt"),
        ({"seed": [1, 2]}, "seed"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32 - 1, "prompts": ["a", "b"]}, "seed"),
        ({"steps": 0}, "steps"),
        ({"steps": 1001}, "steps"),
        ({"height": 17}, "height"),
        ({"width": -16}, "width"),
        ({"sampler": "oiler"}, "sampler = 'oiler': must be one of ddim, ddpm, euler"),
        ({"sampler": "euler", "eta": 0.5}, "eta = 0.5: the sampler 'euler' has no such setting"),
        ({"eta": 1.5}, "eta"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"latents": np.zeros((2, 8, 8, 4), np.float32)}, "latents"),
        ({"latents": np.zeros((8, 8, 4), np.float32)}, "latents"),
        ({"latents": np.zeros((1, 8, 8, 4), np.float32), "height": 32}, "latents"),
    ],
)
def test_wrong_arguments_are_named(untyped, pipe, arguments, named):
    with pytest.raises(InputError, match=f"^{named}"):
        pipe(**{"prompts": "a dog", **arguments})


@pytest.mark.parametrize("seed", [np.int64(7), np.array(7), np.array([7]), (7,), range(7, 8)])
def test_a_seed_is_any_whole_number(untyped, pipe, seed):
    np.testing.assert_array_equal(pipe("a dog", **{**QUICK, "seed": seed}), pipe("a dog", **{**QUICK, "seed": 7}))


def test_no_picture_is_made_of_what_is_not_finite(pipe):
    spoilt = jax.tree.map(lambda leaf: leaf * np.nan, pipe.params)
    with pytest.raises(InputError, match="not finite"):
        pipe("a dog", params=spoilt, **{**QUICK, "output": "uint8"})


def test_computes_in_the_dtype_asked_for(pipe):
    assert {jnp.dtype(module.dtype).name for module in (pipe.unet, pipe.vae, pipe.text_encoder)} == {"float32"}
    half = load_pretrained(FIXTURES / "legacy_flax_sd15", dtype="bfloat16")
    assert {jnp.dtype(module.dtype).name for module in (half.unet, half.vae, half.text_encoder)} == {"bfloat16"}
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {np.dtype("float32")}
    exact, rounded = (one.encode_prompts(one.params, PROMPTS) for one in (pipe, half))
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, exact, atol=0.05 * float(jnp.abs(exact).max()))
    assert not np.array_equal(rounded, exact)
