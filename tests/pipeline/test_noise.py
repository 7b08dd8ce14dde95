# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Random numbers of other tools."""

import numpy as np
import pytest

from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline.noise import ToolNoise
from dreambooth_jax.pipeline.noise.philox import PhiloxGenerator, philox
from dreambooth_jax.pipeline.noise.torch_cpu import TorchGenerator

SIZE = (6, 8, 4)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_words_that_its_authors_published(counter, key, words):
    """The known answers of Random123, where philox4x32 has ten rounds."""
    counter, key, words = ([int(word, 16) for word in text.split()] for text in (counter, key, words))
    assert philox(np.asarray(counter, np.uint32)[:, None], tuple(key))[:, 0].tolist() == words


def test_philox_gives_the_numbers_of_a_gpu():
    """``torch.randn(3, 4, device="cuda")`` of seed 0, as the documentation of A1111's generator prints it."""
    published = [
        [-0.92466259, -0.42534415, -2.6438457, 0.14518388],
        [-0.12086647, -0.57972564, -0.62285122, -0.32838709],
        [-1.07454231, -0.36314407, -1.67105067, 2.26550497],
    ]
    np.testing.assert_allclose(PhiloxGenerator(0).randn((3, 4)), published, atol=5e-7)


def test_calls_and_high_bits_of_the_seed_count_in_philox():
    generator = PhiloxGenerator(2**40 + 3)
    first, second = generator.randn((5,)), generator.randn((5,))
    assert not np.isin(first, second).any()
    assert not np.isin(first, PhiloxGenerator(3).randn((5,))).any()
    np.testing.assert_array_equal(PhiloxGenerator(2**40 + 3).randn((2, 2)).ravel(), first[:4])


@pytest.mark.parity
@pytest.mark.parametrize("seed", [0, 42, 2551426893, 2**32 + 7, 2**63 - 1])
def test_the_cpu_generator_is_torchs(seed):
    """One after another from one generator: whole blocks, blocks with a rest, and numbers below a block."""
    torch = pytest.importorskip("torch")
    theirs, ours = torch.Generator("cpu").manual_seed(seed), TorchGenerator(seed)
    for shape in [(1, 4, 64, 64), (7,), (1, 4, 3, 5), (3,), (16,), (2, 4, 5, 7), (1,), (17,), (1, 4, 8, 8)]:
        expected = torch.randn(shape, generator=theirs).numpy()
        np.testing.assert_allclose(ours.randn(shape), expected, atol=1e-6, err_msg=f"{shape}")


@pytest.mark.parametrize("name", ["torch", "philox", "comfy", "invoke"])
def test_a_picture_has_its_own_noise(name):
    batch, alone = ToolNoise(name, [5, 6], SIZE), ToolNoise(name, [6], SIZE)
    for both, one in ((batch.first, alone.first), (batch.next(), alone.next()), (batch.next(), alone.next())):
        assert both.shape == (2, *SIZE)
        np.testing.assert_array_equal(both[1], one[0])
        assert (both[0] != both[1]).all()


def test_where_the_noise_of_steps_comes_from():
    """torch: goes on; with ENSD: another seed, from the beginning; ComfyUI and InvokeAI: a GPU's generator."""

    def channels_first(noise):
        return noise[0].transpose(2, 0, 1)

    shape, generator = (4, 6, 8), TorchGenerator(3)
    goes_on = ToolNoise("torch", [3], SIZE)
    for noise in (goes_on.first, goes_on.next(), goes_on.next()):
        np.testing.assert_array_equal(channels_first(noise), generator.randn(shape))
    moved = ToolNoise("torch", [3], SIZE, seed_delta=31337)
    np.testing.assert_array_equal(moved.first, ToolNoise("torch", [3], SIZE).first)
    np.testing.assert_array_equal(channels_first(moved.next()), TorchGenerator(3 + 31337).randn(shape))
    for name, seed in (("comfy", 3), ("invoke", 3 ^ 0xFFFFFFFF)):
        tool = ToolNoise(name, [3], SIZE)
        np.testing.assert_array_equal(channels_first(tool.first), TorchGenerator(3).randn(shape))
        np.testing.assert_array_equal(channels_first(tool.next()), PhiloxGenerator(seed).randn(shape))


def test_a_picture_of_a_batch_of_comfyui():
    """The noise of four pictures is one tensor there."""
    batch = TorchGenerator(9).randn((4, 4, 6, 8)), PhiloxGenerator(9).randn((4, 4, 6, 8))
    for index in range(4):
        tool = ToolNoise("comfy", [9], SIZE, index=index)
        for found, expected in zip((tool.first, tool.next()), batch):
            np.testing.assert_array_equal(found[0].transpose(2, 0, 1), expected[index])


@pytest.mark.parity
@pytest.mark.parametrize("sampler", ["ddim", "euler", "euler_a"])
def test_a_seed_of_diffusers_gives_its_picture(sampler):
    """``generator=torch.Generator("cpu").manual_seed(seed)`` for each picture, and no latents given."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    import jax.numpy as jnp

    from tests.test_pipeline_parity import PROMPTS, ours, theirs

    torch_pipe = theirs("sd15", double=False)
    classes = {"ddim": "DDIMScheduler", "euler": "EulerDiscreteScheduler", "euler_a": "EulerAncestralDiscreteScheduler"}
    scheduler = getattr(diffusers, classes[sampler])
    torch_pipe.scheduler = scheduler.from_config(torch_pipe.scheduler.config, timestep_spacing="leading")
    pipe = ours("sd15", torch_pipe, jnp.float32)
    ids = torch.tensor(pipe.tokenizer([*PROMPTS, "", ""]), dtype=torch.long)
    with torch.no_grad():
        embeddings = torch_pipe.text_encoder(ids).last_hidden_state
        eta = {"eta": 0.7} if sampler == "ddim" else {}
        expected = torch_pipe(
            prompt_embeds=embeddings[:2],
            negative_prompt_embeds=embeddings[2:],
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in (11, 12)],
            num_inference_steps=5,
            guidance_scale=3.0,
            height=16,
            width=16,
            output_type="latent",
            **eta,
        ).images.numpy()
    run = {"sampler": sampler, "profile": "diffusers", "steps": 5, "guidance_scale": 3.0, "seed": 11, **eta}
    found = pipe(PROMPTS, noise="torch", output="latents", **run).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    other = pipe(PROMPTS, output="latents", **run).transpose(0, 3, 1, 2)
    assert np.abs(other - expected).max() > 0.1


def test_an_unknown_kind_of_noise_is_refused():
    from dreambooth_jax.config import SamplingConfig

    with pytest.raises(InputError, match="noise = 'cuda': choose one of jax, torch, philox, comfy, invoke"):
        SamplingConfig().changed({"noise": "cuda"})
