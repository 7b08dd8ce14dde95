# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Inpainting against diffusers' ``StableDiffusionInpaintPipeline``, with the same weights and noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.pipeline.diffusers_noise import posterior_noise, replaced
from tests.test_pipeline_parity import NEGATIVE, PROMPTS, ours, theirs

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.parity

MODULE = "pipelines.stable_diffusion.pipeline_stable_diffusion_inpaint"
MASKED = "masked posterior"
HEUN = {"name": "HeunDiscreteScheduler", "timestep_spacing": "leading"}
KARRAS = {"name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}


def embedded(pipe, ids):
    return pipe.text_encoder(torch.tensor(ids, dtype=torch.long)).last_hidden_state


def inpainting(torch_pipe, **scheduler):
    """Their pipeline with the same networks."""
    parts = dict(torch_pipe.components)
    if scheduler:
        options = {key: value for key, value in scheduler.items() if key != "name"}
        parts["scheduler"] = getattr(diffusers, scheduler["name"]).from_config(torch_pipe.scheduler.config, **options)
    pipe = diffusers.StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(
    ("channels", "sampler", "scheduler", "dtype", "strengths"),
    [
        pytest.param(4, "ddim", {}, "float64", (0.6, 1.0), marks=pytest.mark.slow),
        pytest.param(9, "ddim", {}, "float64", (0.6, 1.0), marks=pytest.mark.slow),
        pytest.param(4, "heun", HEUN, "float32", (0.6,), marks=pytest.mark.slow),
        pytest.param(4, "dpmpp_2m", KARRAS, "float32", (1.0,), marks=pytest.mark.slow),
    ],
)
def test_masked_pictures(channels, sampler, scheduler, dtype, strengths):
    source = theirs("sd15", dtype == "float64", in_channels=channels)
    r = np.random.default_rng(1)
    pictures = r.uniform(size=(2, 16, 24, 3)).astype("float32")
    masks = (r.uniform(size=(2, 16, 24)) > 0.4).astype("float32")  # they look at one pixel of a latent's, so do we
    noise = r.normal(size=(2, 8, 12, 4)).astype(dtype)
    torch_pipe = inpainting(source, **scheduler)
    with jax.enable_x64(dtype == "float64"):
        pipe = ours("sd15", source, jnp.dtype(dtype))
        for strength in strengths:
            run = {"schedule": "karras"} if sampler == "dpmpp_2m" else {}
            run |= {"negative_prompt": NEGATIVE, "seed": 3, "steps": 10, "sampler": sampler, "profile": "diffusers"}
            run |= {"image": pictures, "mask": masks, "mask_blur": 0, "strength": strength, "latents": noise}
            found, images = (pipe(PROMPTS, output=output, **run) for output in ("latents", "float32"))
            drawn = [posterior_noise((3, 4), noise.shape[1:], dtype)] if channels == 4 or strength < 1 else []
            drawn.append(posterior_noise((3, 4), noise.shape[1:], dtype, MASKED))
            with torch.no_grad(), replaced("models.autoencoders.vae", *drawn), replaced(MODULE, noise):
                expected = torch_pipe(
                    prompt_embeds=embedded(torch_pipe, pipe.tokenizer(PROMPTS)),
                    negative_prompt_embeds=embedded(torch_pipe, pipe.tokenizer([NEGATIVE] * 2)),
                    image=torch.tensor(pictures.transpose(0, 3, 1, 2)),
                    mask_image=torch.tensor(masks[:, None]),
                    height=16,
                    width=24,
                    strength=strength,
                    num_inference_steps=10,
                    output_type="latent",
                ).images
                decoded = torch_pipe.vae.decode(expected / torch_pipe.vae.config.scaling_factor).sample
            tolerance = 1e-9 if dtype == "float64" else 1e-4
            expected, decoded = (each.numpy().transpose(0, 2, 3, 1) for each in (expected, decoded))
            np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())
            painted = np.where(masks[..., None] == 1, (decoded / 2 + 0.5).clip(0, 1), pictures)
            np.testing.assert_allclose(images, painted, atol=1e-3)
