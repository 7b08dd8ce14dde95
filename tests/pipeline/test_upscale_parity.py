# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Enlarging pictures against diffusers' ``StableDiffusionUpscalePipeline``: what it saves, loaded, draws the same."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline import load_pretrained
from dreambooth_jax.target import Target
from tests import torch_models
from tests.pipeline.diffusers_noise import posterior_noise, replaced
from tests.test_pipeline_parity import FOLDER, NEGATIVE, PROMPTS

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.parity

MODULE = "pipelines.stable_diffusion.pipeline_stable_diffusion_upscale"


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory):
    """(their pipeline, the folder that it was saved to)."""
    import transformers

    torch.set_num_threads(1)
    models = torch_models.build("sd21", in_channels=7, num_class_embeds=400)
    pipe = diffusers.StableDiffusionUpscalePipeline(
        unet=models.unet,
        vae=torch_models.build_vae(seed=1, scaling_factor=0.08333),
        text_encoder=models.text_encoder,
        tokenizer=transformers.CLIPTokenizer.from_pretrained(FOLDER / "tokenizer"),
        scheduler=diffusers.DDIMScheduler.from_config(torch_models.scheduler_config("sd21")),
        low_res_scheduler=diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        safety_checker=None,
        watermarker=None,
    )
    pipe.set_progress_bar_config(disable=True)
    folder = tmp_path_factory.mktemp("upscaler")
    pipe.save_pretrained(folder)
    return pipe, folder


@pytest.fixture(scope="module")
def ours(upscaler):
    return replace(load_pretrained(upscaler[1]), target=Target.of(jax.devices()[:1]))


@pytest.mark.slow
def test_enlarged_pictures(upscaler, ours):
    torch_pipe, _ = upscaler
    pictures = np.random.default_rng(1).uniform(size=(2, 6, 8, 3)).astype("float32")
    noise = np.random.default_rng(0).normal(size=(2, 6, 8, 4)).astype("float32")
    for noise_level, steps in ((20, 5), (300, 3)):
        run = {"seed": 3, "steps": steps, "latents": noise, "negative_prompt": NEGATIVE, "noise_level": noise_level}
        found, images = (ours(PROMPTS, image=pictures, output=output, **run) for output in ("latents", "float32"))
        assert images.shape == (2, 12, 16, 3)
        embedded = [
            torch_pipe.text_encoder(torch.tensor(ours.tokenizer(texts), dtype=torch.long)).last_hidden_state
            for texts in (PROMPTS, [NEGATIVE] * 2)
        ]
        drawn = posterior_noise((3, 4), pictures.shape[1:], "float32", "low resolution")
        with torch.no_grad(), replaced(MODULE, drawn):
            expected = torch_pipe(
                prompt_embeds=embedded[0],
                negative_prompt_embeds=embedded[1],
                image=torch.tensor(pictures.transpose(0, 3, 1, 2)),
                noise_level=noise_level,
                guidance_scale=7.5,
                num_inference_steps=steps,
                latents=torch.tensor(noise.transpose(0, 3, 1, 2)),
                output_type="latent",
            ).images
            decoded = torch_pipe.vae.decode(expected / torch_pipe.vae.config.scaling_factor).sample
        expected, decoded = (each.numpy().transpose(0, 2, 3, 1) for each in (expected, decoded))
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
        np.testing.assert_allclose(images, (decoded / 2 + 0.5).clip(0, 1), atol=1e-3)
        levels = [ours(PROMPTS, image=pictures, output="latents", **run | {"noise_level": n}) for n in (0, 350)]
        assert np.abs(levels[0] - levels[1]).max() > 1e-2


def test_what_it_cannot_do_is_one_line(upscaler, ours):
    picture = np.ones((6, 8, 3), np.float32)
    with pytest.raises(InputError, match="^image = None: .* enlarges pictures; give one"):
        ours("a dog")
    with pytest.raises(InputError, match="^noise_level = 400: .* knows those from 0 to 399"):
        ours("a dog", image=picture, noise_level=400)
    with pytest.raises(InputError, match="^image becomes 6000x12"):
        ours("a dog", image=np.ones((6, 3000, 3), np.float32))
    without = replace(ours, components=replace(ours.components, folder=Path("nowhere")))
    with pytest.raises(InputError, match="^nowhere/low_res_scheduler/scheduler_config.json is missing"):
        without("a dog", image=picture)


def test_the_latent_upscaler_is_refused_in_one_line(tmp_path):
    """Its denoiser has blocks of another kind (k-diffusion's)."""
    from dreambooth_jax.models.configs import UNetConfig

    theirs = {"down_block_types": ["KDownBlock2D", "KCrossAttnDownBlock2D"], "mid_block_type": None}
    with pytest.raises(InputError, match="^down_block_types = .*KDownBlock2D.* is not supported"):
        UNetConfig._from_json(theirs)
