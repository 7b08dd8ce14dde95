# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Runs from a picture against diffusers' ``StableDiffusionImg2ImgPipeline``, with the same weights and noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.pipeline.diffusers_noise import posterior_noise, replaced
from tests.test_pipeline_parity import NEGATIVE, PROMPTS, ours, theirs

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.parity

MODULE = "pipelines.stable_diffusion.pipeline_stable_diffusion_img2img"
SAMPLERS = {
    "ddim": ("DDIMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {"timestep_spacing": "leading"}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "heun": ("HeunDiscreteScheduler", {"timestep_spacing": "leading"}),
}


def embedded(pipe, ids):
    return pipe.text_encoder(torch.tensor(ids, dtype=torch.long)).last_hidden_state


def img2img(torch_pipe, sampler):
    """Their pipeline with the same networks."""
    name, options = SAMPLERS[sampler]
    parts = dict(torch_pipe.components)
    if sampler != "ddim":
        parts["scheduler"] = getattr(diffusers, name).from_config(torch_pipe.scheduler.config, **options)
    pipe = diffusers.StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(
    ("sampler", "dtype", "strengths"),
    [
        ("ddim", "float64", (0.3, 0.75)),
        ("euler", "float32", (0.6, 1.0)),
        ("dpmpp_2m", "float32", (0.75,)),
        ("heun", "float32", (0.55,)),
    ],
)
def test_runs_from_a_picture(sampler, dtype, strengths):
    source = theirs("sd15", dtype == "float64")
    pictures = np.random.default_rng(1).uniform(size=(2, 16, 24, 3)).astype("float32")
    noise = np.random.default_rng(0).normal(size=(2, 8, 12, 4)).astype(dtype)
    torch_pipe = img2img(source, sampler)
    with jax.enable_x64(dtype == "float64"):
        pipe = ours("sd15", source, jnp.dtype(dtype))
        for strength in strengths:
            options = {"schedule": "karras"} if sampler == "dpmpp_2m" else {}
            found = pipe(
                PROMPTS,
                negative_prompt=NEGATIVE,
                seed=3,
                image=list(pictures),
                strength=strength,
                steps=10,
                sampler=sampler,
                profile="diffusers",
                latents=noise,
                output="latents",
                **options,
            )
            drawn = posterior_noise((3, 4), noise.shape[1:], dtype)
            with torch.no_grad(), replaced("models.autoencoders.vae", drawn), replaced(MODULE, noise):
                expected = torch_pipe(
                    prompt_embeds=embedded(torch_pipe, pipe.tokenizer(PROMPTS)),
                    negative_prompt_embeds=embedded(torch_pipe, pipe.tokenizer([NEGATIVE] * 2)),
                    image=torch.tensor(pictures.transpose(0, 3, 1, 2)),
                    strength=strength,
                    num_inference_steps=10,
                    output_type="latent",
                ).images.numpy()
            tolerance = 1e-9 if dtype == "float64" else 1e-4
            expected = expected.transpose(0, 2, 3, 1)
            np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())
            assert np.abs(expected).std() > 0.1
