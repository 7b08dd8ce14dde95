# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What guides Stable Diffusion XL by a picture, in float64, against diffusers' pipelines with the same weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax import Control, load_control, load_pretrained
from dreambooth_jax.target import Target
from tests import torch_models
from tests.pipeline.test_control import NEGATIVE, PROMPTS, nchw, noise, picture
from tests.pipeline.test_ip_adapter import WIDTH, adapter, projection, random, write
from tests.xl import doubled, theirs

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

pytestmark = [
    *(pytest.mark.parity, pytest.mark.slow),
    *(pytest.mark.filterwarnings(f"ignore:.*:{kind}") for kind in ("ResourceWarning", "FutureWarning")),
]

LEVELS = {
    "block_out_channels": (32, 32, 64),
    "attention_head_dim": (2, 2, 4),
    "transformer_layers_per_block": (1, 1, 2),
    "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 2),
}
"""As many as XL has, for its T2I-Adapters are made for these."""
SCALE = 0.7


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(diffusers' pipeline in float64, ours, a folder)."""
    folder = tmp_path_factory.mktemp("xl")
    options = {**LEVELS, "up_block_types": (*["CrossAttnUpBlock2D"] * 2, "UpBlock2D")}
    theirs(**options).save_pretrained(folder / "model")
    torch_pipe = theirs(double=True, **options)
    pipe = load_pretrained(folder / "model", target=Target.of(jax.devices()[:1]))
    with jax.enable_x64(True):
        yield torch_pipe, doubled(pipe, torch_pipe), folder


def in_double(model, net):
    """A control that was read in float32, with the numbers of its network in float64."""
    return dataclasses.replace(model, module=model.module.clone(dtype=jnp.float64), params=net)


def controlnet(torch_pipe, pipe, folder):
    torch_models.build_controlnet("sdxl", seed=10, **LEVELS).save_pretrained(folder / "net")
    net = torch_models.build_controlnet("sdxl", seed=10, double=True, **LEVELS)
    cls = diffusers.StableDiffusionXLControlNetPipeline
    given = {"image": nchw(picture(1)), "controlnet_conditioning_scale": SCALE}
    model = in_double(load_control(folder / "net", pipe), torch_models.params_from_torch(net))
    return model, picture(1), cls(**torch_pipe.components, controlnet=net, add_watermarker=False), given


def t2i_adapter(torch_pipe, pipe, folder):
    options = {"adapter_type": "full_adapter_xl", "channels": [32, 32, 64, 64], "downscale_factor": 4, "seed": 30}
    torch_models.build_t2i_adapter(**options).save_pretrained(folder / "t2i")
    net = torch_models.build_t2i_adapter(double=True, **options)
    parts = {**torch_pipe.components, "adapter": net}
    given = {
        "image": nchw(picture(1)).double().repeat(2, 1, 1, 1),
        "adapter_conditioning_scale": SCALE,
        "height": 16,
        "width": 16,
    }
    model = in_double(load_control(folder / "t2i", pipe), torch_models.params_from_torch(net))
    return model, picture(1), diffusers.StableDiffusionXLAdapterPipeline(**parts), given


def ip_adapter(torch_pipe, pipe, folder):
    """Plain, by an image's embedding, as ip-adapter_sdxl is."""
    state = adapter(torch_pipe.unet, "plain") | {"image_proj": random(projection("plain", features=80), 0)}
    write(folder / "ip.safetensors", state)
    embedding = np.random.default_rng(2).normal(size=(1, WIDTH)).astype(np.float32)
    other = diffusers.StableDiffusionXLPipeline(**torch_pipe.components, add_watermarker=False)
    other.load_ip_adapter(state, subfolder="", weight_name="", image_encoder_folder=None, low_cpu_mem_usage=False)
    other.unet.double()
    other.set_ip_adapter_scale(SCALE)
    halves = torch.from_numpy(np.stack([np.zeros_like(embedding), embedding])).double()
    given = {"ip_adapter_image_embeds": [halves], "height": 16, "width": 16}
    model = load_control(folder / "ip.safetensors", pipe)
    guide = dataclasses.replace(model.module, projection=model.module.projection.clone(dtype=jnp.float64))
    return dataclasses.replace(model, module=guide), embedding, other, given


@pytest.mark.parametrize("make", [controlnet, t2i_adapter, ip_adapter], ids=lambda make: make.__name__)
def test_a_guided_run(make, both):
    torch_pipe, pipe, folder = both
    model, given, torch_pipe, theirs_given = make(torch_pipe, pipe, folder)
    torch_pipe.set_progress_bar_config(disable=True)
    latents, run = noise("float64"), {"guidance_scale": 5.0}
    with torch.no_grad():
        expected = torch_pipe(
            prompt=PROMPTS,
            negative_prompt=[NEGATIVE] * 2,
            latents=torch.tensor(latents.transpose(0, 3, 1, 2)),
            num_inference_steps=4,
            output_type="latent",
            **theirs_given,
            **run,
        ).images
    expected = expected.numpy().transpose(0, 2, 3, 1)
    run |= {"negative_prompt": NEGATIVE, "latents": latents, "steps": 4, "output": "latents"}
    found = pipe(PROMPTS, control=Control(model, given, scale=SCALE), **run)
    np.testing.assert_allclose(found, expected, atol=1e-9 * np.abs(expected).max())
    without = pipe(PROMPTS, control=Control(model, given, scale=0.0), **run)
    assert np.abs(without - expected).max() > 1e-2
