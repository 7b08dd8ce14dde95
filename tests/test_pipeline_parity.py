# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A whole guided run against diffusers' PyTorch ``StableDiffusionPipeline``, with the same random weights."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax.data.tokenizer import load_tokenizer
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.models.clip_configs import CLIPTextConfig
from dreambooth_jax.models.clip_text import CLIPTextModel
from dreambooth_jax.models.configs import UNetConfig, VAEConfig
from dreambooth_jax.models.unet import UNet2DConditionModel
from dreambooth_jax.models.vae import AutoencoderKL
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.target import Target
from dreambooth_jax.weights.pretrained import Components
from tests import torch_models

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.parity

FOLDER = Path(__file__).parent / "fixtures" / "legacy_flax_sd15"
PROMPTS, NEGATIVE = ["a photo of sks dog", "a cat"], "blurry"


def theirs(kind: str, double: bool, **unet_options):
    torch.set_num_threads(1)  # tiny networks: threads would only wait for each other
    models = torch_models.build(kind, double=double, **unet_options)
    scheduler = diffusers.DDIMScheduler.from_config(torch_models.scheduler_config(kind))
    if double:
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
        scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    pipe = diffusers.StableDiffusionPipeline(
        unet=models.unet,
        vae=models.vae,
        text_encoder=models.text_encoder,
        scheduler=scheduler,
        **dict.fromkeys(("tokenizer", "safety_checker", "feature_extractor")),
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ours(kind: str, torch_pipe, dtype) -> Pipeline:
    modules = {
        "unet": UNet2DConditionModel(UNetConfig.from_json(torch_models.config_json(torch_pipe.unet)), dtype),
        "vae": AutoencoderKL(VAEConfig.from_json(torch_models.config_json(torch_pipe.vae)), dtype),
        "text_encoder": CLIPTextModel(
            CLIPTextConfig.from_json(torch_models.config_json(torch_pipe.text_encoder)), dtype
        ),
    }
    return Pipeline(
        components=Components(
            modules=modules, params={}, configs={}, scheduler_config={}, folder=FOLDER, tokenizers={}
        ),
        params={name: torch_models.params_from_torch(getattr(torch_pipe, name)) for name in modules},
        tokenizers={"text_encoder": load_tokenizer(FOLDER / "tokenizer")},
        schedule=NoiseSchedule.from_config(torch_models.scheduler_config(kind)),
        target=Target.of(jax.devices()[:1]),  # the others would repeat the same
    )


def run_theirs(pipe, ids, negative_ids, latents, **settings):
    """(final latents, pictures in [0, 1])."""

    def embed(ids):
        return pipe.text_encoder(torch.tensor(ids, dtype=torch.long)).last_hidden_state

    with torch.no_grad():
        final = pipe(
            prompt_embeds=embed(ids),
            negative_prompt_embeds=embed(negative_ids),
            latents=torch.tensor(latents.transpose(0, 3, 1, 2)),
            height=2 * latents.shape[1],
            width=2 * latents.shape[2],
            output_type="latent",
            **settings,
        ).images
        images = pipe.vae.decode(final / pipe.vae.config.scaling_factor).sample
    return (result.numpy().transpose(0, 2, 3, 1) for result in (final, (images / 2 + 0.5).clamp(0, 1)))


@pytest.mark.parametrize(
    ("kind", "dtype", "tolerance"),
    [
        pytest.param("sd15", "float32", 1e-4, marks=pytest.mark.slow),
        pytest.param("sd21", "float32", 1e-4, marks=pytest.mark.slow),
        ("sd21", "float64", 1e-9),
    ],
)
def test_guided_runs(kind, dtype, tolerance):
    torch_pipe = theirs(kind, dtype == "float64")
    noise = np.random.default_rng(0).normal(size=(2, *(torch_pipe.unet.config.sample_size,) * 2, 4)).astype(dtype)
    with jax.enable_x64(dtype == "float64"):
        pipe = ours(kind, torch_pipe, jnp.dtype(dtype))
        for steps, scale in ((20, 7.5), (4, 1.0)):
            run = {"steps": steps, "guidance_scale": scale, "negative_prompt": NEGATIVE, "latents": noise}
            latents, images = (pipe(PROMPTS, output=output, **run) for output in ("latents", "float32"))
            expected_latents, expected_images = run_theirs(
                torch_pipe,
                pipe.tokenizer(PROMPTS),
                pipe.tokenizer([NEGATIVE] * 2),
                noise,
                num_inference_steps=steps,
                guidance_scale=scale,
            )
            assert latents.dtype == images.dtype == dtype
            np.testing.assert_allclose(latents, expected_latents, atol=tolerance * np.abs(expected_latents).max())
            np.testing.assert_allclose(images, expected_images, atol=tolerance)
            assert expected_images.std() > 0.05


def test_a_guided_run_of_euler():
    torch_pipe = theirs("sd15", double=False)
    torch_pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(
        torch_pipe.scheduler.config, timestep_spacing="leading"
    )
    pipe = ours("sd15", torch_pipe, jnp.float32)
    noise = np.random.default_rng(0).normal(size=(2, *(torch_pipe.unet.config.sample_size,) * 2, 4)).astype("float32")
    run = {"guidance_scale": 5.0, "latents": noise}
    images = pipe(PROMPTS, output="float32", sampler="euler", steps=7, **run)
    _, expected = run_theirs(
        torch_pipe, pipe.tokenizer(PROMPTS), pipe.tokenizer(["", ""]), num_inference_steps=7, **run
    )
    np.testing.assert_allclose(images, expected, atol=1e-4)
