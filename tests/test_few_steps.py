# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Models that draw in a few steps: what their folders say, beside diffusers' pipeline with their schedulers.

All are run with one program: that of a denoiser that is told of the guidance scale, and so asked once in a step.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dreambooth_jax as dbx
from dreambooth_jax import rng
from dreambooth_jax.diffusion.loop import NOISE
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from tests import torch_models
from tests.pipeline.diffusers_noise import replaced
from tests.xl import theirs, written

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore:.*:ResourceWarning")]
PROMPTS, SEEDS = ["a photo of sks dog", "a cat"], (3, 4)
TOLD = {"time_cond_proj_dim": 16}


@pytest.fixture(scope="module")
def torch_pipe():
    pipe = theirs(double=True, **TOLD)
    pipe.get_guidance_scale_embedding = lambda w, embedding_dim: sinusoids(1000 * w.double(), embedding_dim)
    return pipe


@pytest.fixture(scope="module")
def pipe(torch_pipe, tmp_path_factory):
    """Ours in float64."""
    pipe = dbx.load_pretrained(written(tmp_path_factory.mktemp("few") / "model", **TOLD))
    modules = {name: module.clone(dtype=jnp.float64) for name, module in pipe.components.modules.items()}
    params = {name: torch_models.params_from_torch(getattr(torch_pipe, name)) for name in modules}
    return dataclasses.replace(pipe, components=dataclasses.replace(pipe.components, modules=modules), params=params)


def sinusoids(told, size):
    """Theirs in float64."""
    frequencies = 10000.0 ** (-torch.arange(size // 2, dtype=torch.float64) / (size // 2 - 1))
    angles = told[:, None] * frequencies
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)


def drawn_noise(step, shape):
    """What ours draws for a step, for the seeds."""
    keys = [rng.stream(rng.root_key(seed), NOISE, step) for seed in SEEDS]
    return np.stack([jax.random.normal(key, shape, jnp.float64) for key in keys])


TRAILING = {"timestep_spacing": "trailing"}


@pytest.mark.parametrize(
    ("name", "module", "options", "steps", "guidance", "tolerance"),
    [
        pytest.param("LCMScheduler", "lcm", {}, 4, 5.0, 1e-9, id="LCM, which is told of guidance"),
        pytest.param("TCDScheduler", "tcd", {}, 4, 0.0, 1e-9, id="Hyper"),
        pytest.param("EulerAncestralDiscreteScheduler", "euler_ancestral_discrete", TRAILING, 4, 0.0, 1e-5, id="Turbo"),
        pytest.param("EulerDiscreteScheduler", "euler_discrete", TRAILING, 4, 0.0, 1e-5, id="Lightning"),
        pytest.param("EulerDiscreteScheduler", "euler_discrete", TRAILING, 1, 0.0, 1e-5, id="Turbo in one step"),
        pytest.param("DDIMScheduler", "ddim", TRAILING, 2, 0.0, 1e-9, id="Hyper with DDIM"),
    ],
)
def test_what_a_folder_says_is_done(pipe, torch_pipe, name, module, options, steps, guidance, tolerance):
    """With ``sampler=model``. Euler's schedulers compute in float32."""
    made = getattr(diffusers, name).from_config(torch_models.scheduler_config(torch_models.XL), **options)
    for alpha in ("alphas_cumprod", "final_alpha_cumprod"):
        if hasattr(made, alpha):
            setattr(made, alpha, getattr(made, alpha).double())
    said = NoiseSchedule.from_config(json.loads(made.to_json_string()))
    noise = np.random.default_rng(0).normal(size=(2, 8, 12, 4))
    run = {"seed": SEEDS, "steps": steps, "guidance_scale": guidance, "latents": noise, "output": "latents"}
    with jax.enable_x64(True):
        found = dataclasses.replace(pipe, schedule=said)(PROMPTS, sampler="model", **run)
        draws = [drawn_noise(step, noise.shape[1:]) for step in range(steps)]
    told = {"num_inference_steps": steps, "guidance_scale": guidance, "height": 16, "width": 24}
    told |= {"eta": 0.3} if name == "TCDScheduler" else {}  # its own default, in whose place pipelines put 0
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch_pipe, "scheduler", made)
        start = torch.tensor(noise.transpose(0, 3, 1, 2))
        with replaced(f"schedulers.scheduling_{module}", *draws):
            expected = torch_pipe(prompt=PROMPTS, latents=start, output_type="latent", **told).images
    expected = expected.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


def test_who_is_told_of_guidance_is_asked_once(pipe):
    """The negative prompt does not count, the scale does."""
    noise = np.random.default_rng(0).normal(size=(2, 8, 12, 4))
    run = {"seed": SEEDS, "steps": 2, "latents": noise, "output": "latents", "sampler": "lcm"}
    with jax.enable_x64(True):
        one, same, other = (
            pipe(PROMPTS, guidance_scale=scale, negative_prompt=text, **run)
            for scale, text in ((5.0, ""), (5.0, "blurry"), (2.0, ""))
        )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3
