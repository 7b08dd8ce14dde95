# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Pictures whose texts were written by hand in the forms of A1111 and ComfyUI, against what these do with their seeds:
PyTorch's networks, k-diffusion's samplers, torch's random numbers."""

import copy

import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax.diffusion.levels import Ladder
from dreambooth_jax.metadata.reading import read_remake
from tests.diffusion import test_k_diffusion
from tests.metadata.files import COMFYUI, comfyui, png
from tests.test_pipeline_parity import ours, theirs

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.parity

SEED, SHAPE = 2551426893, (1, 4, 8, 8)
TEXT = (
    "a photo of sks dog\nNegative prompt: blurry\nSteps: 5, Sampler: {sampler}, Schedule type: {schedule}, "
    f"CFG scale: 3, Seed: {SEED}, Size: 16x16, RNG: CPU"
)

k_diffusion = test_k_diffusion.theirs


class Torch:
    """The networks, as both tools ask them."""

    def __init__(self, *, whole: bool):
        self.pipe = theirs("sd15", double=False)
        self.ours = ours("sd15", self.pipe, jnp.float32)
        self.ladder, self.whole = Ladder.of(self.ours.schedule).k, whole
        ids = torch.tensor(self.ours.tokenizer(["a photo of sks dog", "blurry"]), dtype=torch.long)
        self.states = self.pipe.text_encoder(ids).last_hidden_state

    def __call__(self, x, sigma):
        """D of x / α. Both prompts are asked at once, and the guidance is between what is denoised."""
        k, log = float(sigma[0]), np.log(self.ladder)
        t = np.abs(log - np.log(k)).argmin() if self.whole else np.interp(np.log(k), log, np.arange(1000))
        both = torch.cat([x, x])
        told = torch.tensor(float(t), dtype=torch.float32)
        both = both - k * self.pipe.unet(both / (k**2 + 1) ** 0.5, told, encoder_hidden_states=self.states).sample
        return both[1:] + 3.0 * (both[:1] - both[1:])

    def sigmas(self, k_diffusion, spacing):
        return torch.tensor(test_k_diffusion.sigmas_of(k_diffusion, self.ladder, spacing, 5), dtype=torch.float32)

    def check(self, path, expected):
        """Our picture of the file's text is the expected one."""
        remake = read_remake(path)
        assert remake.lacking == []
        found = self.ours(remake.prompt, seed=remake.seed, output="latents", **remake.options).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("sampler", "schedule", "function", "delta"),
    [
        ("Euler a", "Automatic", "sample_euler_ancestral", 0),
        ("Euler a", "Karras", "sample_euler_ancestral", 31337),
        ("DPM++ 2M", "Karras", "sample_dpmpp_2m", 0),
    ],
)
def test_a_picture_of_a1111_is_made_again(k_diffusion, tmp_path, sampler, schedule, function, delta):
    with torch.no_grad():
        tool = Torch(whole=False)
        generator = torch.Generator("cpu").manual_seed(SEED)
        sigmas = tool.sigmas(k_diffusion, "karras" if schedule == "Karras" else "uniform")
        x = torch.randn(SHAPE, generator=generator) * sigmas[0]
        if delta:
            generator = torch.Generator("cpu").manual_seed(SEED + delta)
        noise = {"noise_sampler": lambda *_: torch.randn(SHAPE, generator=generator)}
        options = noise if "ancestral" in function else {}
        expected = getattr(k_diffusion, function)(tool, x, sigmas, disable=True, **options)
    text = TEXT.format(sampler=sampler, schedule=schedule) + (f", ENSD: {delta}" if delta else "")
    tool.check(png(tmp_path / "a.png", {"parameters": text}), expected)


@pytest.mark.parametrize(
    ("scheduler", "spacing", "function"), [("normal", "uniform", "euler"), ("karras", "karras", "dpmpp_2m")]
)
def test_a_picture_of_comfyui_is_made_again(k_diffusion, tmp_path, scheduler, spacing, function):
    graph = copy.deepcopy(COMFYUI)
    del graph["10"], graph["11"]
    inputs = {"seed": SEED, "steps": 5, "cfg": 3, "sampler_name": function, "scheduler": scheduler, "model": ["4", 0]}
    graph["3"]["inputs"] |= inputs
    graph["5"]["inputs"] = {"width": 16, "height": 16, "batch_size": 1}
    graph["6"]["inputs"] = {"text": "a photo of sks dog", "clip": ["4", 1]}
    graph["7"]["inputs"] = {"text": "blurry", "clip": ["4", 1]}
    with torch.no_grad():
        tool = Torch(whole=True)
        sigmas = tool.sigmas(k_diffusion, spacing)
        noise = torch.randn(SHAPE, generator=torch.Generator("cpu").manual_seed(SEED))
        # all noise where a run begins at the largest level
        x = noise * (1 + sigmas[0] ** 2) ** 0.5
        expected = getattr(k_diffusion, f"sample_{function}")(tool, x, sigmas, disable=True)
    tool.check(comfyui(tmp_path / "a.png", graph), expected)
