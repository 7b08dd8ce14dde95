# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The refiner of Stable Diffusion XL: its folder, itself, and as the second stage of a run, against diffusers."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dreambooth_jax as dbx
from dreambooth_jax.errors import InputError
from dreambooth_jax.models.families import SDXL, SDXL_REFINER, family_of
from tests import torch_models
from tests.pipeline.diffusers_noise import posterior_noise, replaced
from tests.weights.folders import assert_same
from tests.xl import refiner, theirs, with_config, written

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore:.*:ResourceWarning")]
PROMPTS, NEGATIVE = ["a photo of sks dog", "a cat"], "blurry"
STEPS, GUIDANCE = 8, 6.0
NAMES = ("text_encoder_2", "unet", "vae")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The refiner in float32, as ``save_pretrained`` writes it."""
    path = tmp_path_factory.mktemp("refiner") / "model"
    refiner(theirs()).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def fine(folder):
    return dbx.load_pretrained(folder)


def test_the_folder_is_read_and_written_again(folder, fine, tmp_path):
    assert fine.components.family is SDXL_REFINER
    torch_pipe = refiner(theirs())
    assert_same(fine.params, {name: torch_models.params_from_torch(getattr(torch_pipe, name)) for name in NAMES})
    assert list(fine.tokenizers) == ["text_encoder_2"]
    dbx.save_pretrained(tmp_path / "again", fine, fine.params)
    ours, original = (json.loads((path / "model_index.json").read_text()) for path in (tmp_path / "again", folder))
    dropped = ("_diffusers_version", "_name_or_path", "add_watermarker")
    assert ours == {name: value for name, value in original.items() if name not in dropped} | {
        "tokenizer_2": ["transformers", "CLIPTokenizer"]
    }
    assert_same(dbx.load_pretrained(tmp_path / "again").params, fine.params)
    opened = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "again")
    assert isinstance(opened, diffusers.StableDiffusionXLImg2ImgPipeline)
    assert opened.config.requires_aesthetics_score
    assert opened.text_encoder is opened.tokenizer is None
    for name in NAMES:
        assert_same(torch_models.params_from_torch(getattr(opened, name)), fine.params[name])


def test_a_refiner_is_told_by_what_it_does_without():
    img2img = "StableDiffusionXLImg2ImgPipeline"
    assert family_of(img2img) is SDXL
    assert family_of(img2img, absent=["feature_extractor", "image_encoder"]) is SDXL
    assert family_of(img2img, absent=["text_encoder", "tokenizer"]) is SDXL_REFINER


@pytest.mark.parametrize(
    ("component", "changes", "message"),
    [
        ("text_encoder_2", {"hidden_size": 36}, "cross_attention_dim = 48 does not fit the text_encoder_2's .* = 36"),
        ("text_encoder_2", {"projection_dim": 41}, "dim = 80 is not 5 x addition_time_embed_dim = 8 and .* = 41"),
    ],
)
def test_what_does_not_fit_is_one_line(folder, tmp_path, component, changes, message):
    with pytest.raises(InputError, match=message):
        dbx.load_pretrained(with_config(folder, tmp_path / "model", component, changes))


@pytest.fixture(scope="module")
def torch_pipes():
    """Both of theirs in float64."""
    base = theirs(double=True)
    base.vae.register_to_config(force_upcast=False)  # to float32, here
    return base, refiner(base, double=True)


@pytest.fixture(scope="module")
def pipes(folder, torch_pipes, tmp_path_factory):
    """Both of ours in float64, with the weights of theirs."""
    folders = written(tmp_path_factory.mktemp("xl") / "model"), folder
    return [doubled(dbx.load_pretrained(path), pipe) for path, pipe in zip(folders, torch_pipes, strict=True)]


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).normal(size=(2, 8, 12, 4))


def doubled(pipe, torch_pipe):
    modules = {name: module.clone(dtype=jnp.float64) for name, module in pipe.components.modules.items()}
    params = {name: torch_models.params_from_torch(getattr(torch_pipe, name)) for name in modules}
    return dataclasses.replace(pipe, components=dataclasses.replace(pipe.components, modules=modules), params=params)


def drawn(pipe, noise, **options):
    """Final latents of ours."""
    run = {"negative_prompt": NEGATIVE, "steps": STEPS, "guidance_scale": GUIDANCE, "latents": noise, **options}
    with jax.enable_x64(True):
        return pipe(PROMPTS, output="latents", **run)


def nchw(array):
    return torch.tensor(array.transpose(0, 3, 1, 2))


def both(torch_pipes, noise, start, **options):
    """Final latents of theirs, one after the other."""
    base, fine = torch_pipes
    told = {"prompt": PROMPTS, "negative_prompt": [NEGATIVE] * 2, "output_type": "latent", "guidance_scale": GUIDANCE}
    told |= {"num_inference_steps": STEPS, **options}
    with torch.no_grad():
        noisy = base(latents=nchw(noise), height=16, width=24, denoising_end=start, **told).images
        return fine(image=noisy, denoising_start=start, **told).images.numpy().transpose(0, 2, 3, 1)


def close(found, expected, tolerance=1e-9):
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


def test_two_stages(pipes, torch_pipes, noise):
    base, fine = pipes
    for start in (0.8, 0.45):
        close(drawn(base, noise, refiner=fine, refiner_start=start), both(torch_pipes, noise, start))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "ours"),
    [
        ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, {"sampler": "euler", "schedule": "trailing"}),
        (
            "DPMSolverMultistepScheduler",
            {"timestep_spacing": "leading"},
            {"sampler": "dpmpp_2m", "schedule": "leading"},
        ),
    ],
)
def test_two_stages_of_other_samplers(pipes, torch_pipes, noise, name, options, ours):
    """Their schedulers compute in float32."""
    base, fine = pipes
    with pytest.MonkeyPatch.context() as patch:
        for pipe in torch_pipes:
            made = getattr(diffusers, name).from_config(pipe.scheduler.config, **options)
            patch.setattr(pipe, "scheduler", made)
        expected = both(torch_pipes, noise, 0.8)
    close(drawn(base, noise, refiner=fine, profile="diffusers", **ours), expected, 1e-5)


@pytest.mark.slow
def test_what_counts_and_what_does_not(pipes, noise):
    """The scores, of the refiner alone, and where it takes over do."""
    base, fine = pipes
    plain = drawn(base, noise, refiner=fine)
    same = {"aesthetic_score": 6.0, "negative_aesthetic_score": 2.5, "refiner_start": 0.799}
    np.testing.assert_array_equal(drawn(base, noise, refiner=fine, **same), plain)
    for name, value in {"aesthetic_score": 3.0, "negative_aesthetic_score": 6.0, "refiner_start": 0.6}.items():
        assert np.abs(drawn(base, noise, refiner=fine, **{name: value}) - plain).max() > 1e-3, name
        assert name == "refiner_start" or (drawn(base, noise, **{name: value}) == drawn(base, noise)).all()


def test_a_model_that_refines_itself(pipes, noise):
    """It is one run, bit for bit; but what a multistep method remembers is kept in the profile of A1111 alone."""
    base, _ = pipes
    multistep = {"sampler": "dpmpp_2m", "profile": "a1111"}
    for options in [{"sampler": "euler_a", "schedule": "karras"}, {"sampler": "heun"}, multistep]:
        whole, split = (drawn(base, noise, **refined, **options) for refined in ({}, {"refiner": base}))
        np.testing.assert_array_equal(split, whole, err_msg=str(options))
    other = drawn(base, noise, refiner=base, **{**multistep, "profile": "diffusers"})
    assert np.abs(other - whole).max() > 1e-6


def test_who_looks_on_sees_one_run(pipes, noise):
    base, _ = pipes
    seen = [], []
    run = {"steps": 4, "refiner_start": 0.55}
    whole, split = (
        drawn(base, noise, on_step=calls.append, refiner=one, **run) for calls, one in zip(seen, (None, base))
    )
    np.testing.assert_array_equal(split, whole)
    assert [step[:2] for step in seen[0]] == [step[:2] for step in seen[1]] == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_errors(pipes, noise):
    base, fine = pipes
    with pytest.raises(InputError, match="refiner_start = 0.999: leaves the refiner none of 8 steps; take less"):
        drawn(base, noise, refiner=fine, refiner_start=0.999)
    late = dataclasses.replace(fine.schedule, alphas_cumprod=fine.schedule.alphas_cumprod[:500])
    with pytest.raises(InputError, match="does not go on where .* they were trained with other noise levels"):
        drawn(base, noise, refiner=dataclasses.replace(fine, schedule=late))


def test_a_refiner_alone(pipes, torch_pipes, noise):
    """As img2img: a picture that is made is told of as any other."""
    _, fine = pipes
    pictures = np.random.default_rng(1).integers(0, 4097, size=(2, 16, 24, 3)) / 4096  # 2x - 1 is exact in float32
    run = {"seed": 3, "profile": "diffusers", "strength": 0.3}
    found = drawn(fine, noise, image=list(pictures.astype(np.float32)), **run)
    module = "pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img"
    with jax.enable_x64(True):
        samples = posterior_noise((3, 4), noise.shape[1:], "float64")
    with torch.no_grad(), replaced("models.autoencoders.vae", samples), replaced(module, noise):
        expected = torch_pipes[1](
            prompt=PROMPTS,
            negative_prompt=[NEGATIVE] * 2,
            image=nchw(pictures.astype(np.float32).astype(np.float64)),
            strength=0.3,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            output_type="latent",
        ).images
    close(found, expected.numpy().transpose(0, 2, 3, 1))
