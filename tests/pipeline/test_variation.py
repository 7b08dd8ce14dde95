# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Variations, and the second pass at a larger size."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax.data.pictures import resampled
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline import load_pretrained
from dreambooth_jax.pipeline.hires import second_size
from dreambooth_jax.pipeline.variation import COLUMNS, WHOLE, slerp
from dreambooth_jax.size import Size
from dreambooth_jax.target import Target

MODEL = Path(__file__).parents[1] / "fixtures" / "legacy_flax_sd15"
PROMPTS = ["a photo of sks dog", "a dog"]
RUN = {"steps": 3, "output": "latents"}


@pytest.fixture(scope="module")
def pipe():
    return replace(load_pretrained(MODEL), target=Target.of(jax.devices()[:1]))


@pytest.fixture
def noises():
    return [jnp.asarray(noise, jnp.float32) for noise in np.random.default_rng(0).normal(size=(2, 3, 8, 10, 4))]


def turned(noises, part, axes=WHOLE):
    return np.asarray(slerp(*noises, jnp.float32(part), axes=axes))


@pytest.mark.parametrize("axes", [WHOLE, COLUMNS])
def test_a_great_circle(noises, axes):
    """Ends, reversal, and each part adds its share of the angle; equal lengths stay that length."""
    low, high = map(np.asarray, noises)
    np.testing.assert_allclose(turned(noises, 0, axes), low, atol=1e-6)
    np.testing.assert_allclose(turned(noises, 1, axes), high, atol=1e-6)
    np.testing.assert_allclose(turned(noises, 0.3, axes), turned(noises[::-1], 0.7, axes), atol=1e-5)

    def length(x):
        return np.sqrt((x**2).sum(axes, keepdims=True))

    units = [jnp.asarray(x / length(x)) for x in (low, high)]
    way = turned(units, 0.3, axes)
    np.testing.assert_allclose(length(way), 1, atol=1e-5)
    angles = [np.arccos((a * b).sum(axes)) for a, b in ((units[0], way), (units[0], units[1]))]
    np.testing.assert_allclose(angles[0], 0.3 * angles[1], atol=1e-4)


def test_nearly_the_same_noise_is_mixed_linearly(noises):
    low, near = noises[0], noises[0] + 1e-3 * noises[1]
    np.testing.assert_allclose(turned((low, low), 0.4), low, atol=1e-6)
    np.testing.assert_allclose(turned((low, near), 0.4), low + 0.4e-3 * noises[1], atol=1e-5)
    assert np.isfinite(turned((low, -low), 0.5)).all()


def test_as_a1111_does_it(noises):
    """``slerp`` of its ``rng.py`` on [c, h, w] with dim=1, written down."""
    torch = pytest.importorskip("torch")
    low, high = (torch.tensor(np.asarray(noise)).permute(0, 3, 1, 2) for noise in noises)
    for one in range(len(low)):
        a, b = low[one], high[one]
        omega = torch.acos((a / a.norm(dim=1, keepdim=True) * (b / b.norm(dim=1, keepdim=True))).sum(1))
        parts = (torch.sin(w * omega) / torch.sin(omega) for w in (0.8, 0.2))
        expected = sum(part.unsqueeze(1) * x for part, x in zip(parts, (a, b)))
        np.testing.assert_allclose(turned(noises, 0.2, COLUMNS)[one], expected.permute(1, 2, 0), atol=1e-5)


def test_variations_of_a_seed(pipe):
    """From the picture of one seed to that of another, also with noise on the way, which is the first one's."""
    varied = {"variation_of": 7, "seed": [8, 9], "sampler": "euler_a", **RUN}
    base = pipe(PROMPTS, seed=[7, 7], sampler="euler_a", **RUN)
    np.testing.assert_allclose(pipe(PROMPTS, variation_strength=0, **varied), base, atol=1e-4)
    near, far = (pipe(PROMPTS, variation_strength=part, **varied) for part in (0.05, 0.9))
    assert 0 < np.abs(near - base).mean() < np.abs(far - base).mean()
    at_end = pipe(PROMPTS, variation_of=7, seed=[8, 9], variation_strength=1, **RUN)
    np.testing.assert_allclose(at_end, pipe(PROMPTS, seed=[8, 9], **RUN), atol=1e-4)
    again = pipe(PROMPTS[1], variation_of=7, seed=9, variation_strength=0.9, sampler="euler_a", **RUN)
    np.testing.assert_allclose(again[0], far[1], atol=1e-4)
    with pytest.raises(InputError, match="^variation_of = 4294967296"):
        pipe(PROMPTS, variation_of=2**32)


def test_a_second_pass_is_a_run_from_the_enlarged_picture(pipe):
    options = {"seed": 3, "steps": 4, "height": 12, "width": 16, "sampler": "euler", "output": "float32"}
    hires = {"hires_scale": 1.5, "hires_strength": 0.5, "hires_steps": 6}
    both = pipe(PROMPTS, hires_by="picture", **hires, **options)
    assert both.shape == (2, 18, 24, 3)
    larger = [resampled(picture, Size(18, 24)) for picture in pipe(PROMPTS, **options)]
    second = pipe(PROMPTS, image=larger, strength=0.5, **options | {"steps": 6, "height": 18, "width": 24})
    np.testing.assert_allclose(both, second, atol=1e-5)


@pytest.mark.slow
def test_latents_are_enlarged_bilinearly(pipe):
    """As torch does it, as A1111's "Latent" asks; a second pass of one small step changes little of them."""
    torch = pytest.importorskip("torch")
    options = {"seed": 3, "steps": 4, "height": 12, "width": 16, "guidance_scale": 1.0, "output": "latents"}
    first = torch.tensor(pipe(PROMPTS, **options)).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(first, (9, 12), mode="bilinear", align_corners=False)
    expected = expected.permute(0, 2, 3, 1).numpy()
    found = pipe(PROMPTS, hires_scale=1.5, hires_strength=0.02, hires_steps=50, **options)
    assert np.abs(found - expected).mean() < 0.1 * np.abs(expected).mean()
    other = pipe(PROMPTS, hires_scale=1.5, hires_strength=0.9, hires_steps=5, **options)
    assert np.abs(other - expected).mean() > 0.2 * np.abs(expected).mean()


def test_sizes_of_a_second_pass(pipe):
    assert second_size(Size(12, 16), 1.3, 2) == Size(16, 20)  # 15.6 and 20.8 pixels, to the nearest multiples
    with pytest.raises(InputError, match="^hires_scale = 8: makes 8192x16"):
        second_size(Size(2, 1024), 8.0, 2)
    with pytest.raises(InputError, match="^hires_scale = 2.0: not together with a mask"):
        pipe(PROMPTS, hires_scale=2, steps=1, strength=1, image=np.ones((12, 16, 3)), mask=np.ones((12, 16)))


@pytest.mark.slow
def test_strips_are_the_same_pictures(pipe):
    """Of a run from noise, and of one from a picture with a second pass."""
    options = {"seed": 3, "steps": 2, "height": 12, "width": 16, "sampler": "euler", "output": "float32"}
    np.testing.assert_allclose(pipe(PROMPTS, tiled=True, **options), pipe(PROMPTS, **options), atol=1e-5)
    options |= {"image": np.random.default_rng(0).uniform(size=(12, 16, 3)), "hires_scale": 1.5, "hires_by": "picture"}
    np.testing.assert_allclose(pipe(PROMPTS, tiled=True, **options), pipe(PROMPTS, **options), atol=1e-4)
