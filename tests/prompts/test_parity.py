# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Long, weighted and changing prompts against diffusers, given the states of A1111's written rules."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dreambooth_jax as dbx
from dreambooth_jax.models.emphasis import emphasised
from dreambooth_jax.prompts.chunks import read_chunks
from tests import xl
from tests.prompts import a1111
from tests.test_pipeline_parity import ours, theirs

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.parity

FILLER = "a photo of a dog on a beach, in the snow, with a cat and a backpack, "
LONG = [("a ", 1.0), ("red dog", 1.3), (" and a ", 1.0), ("cat", 1.1 * 1.1), (", ", 1.0), ("blue", 1 / 1.1)]
WRITTEN = "a (red dog:1.3) and a ((cat)), [blue]"
RUN = {"guidance_scale": 5.0, "height": 16, "width": 16}


def rule(tokenizer, parts):
    """(ids, weights) [k, 77] of a prompt's parts, from the tokenizer's words alone."""
    backend = tokenizer.backend
    words = [(backend(text, add_special_tokens=False)["input_ids"], weight) for text, weight in parts]
    ids, weights = [i for some, _ in words for i in some], [w for some, w in words for _ in some]
    ends = [0, *a1111.cuts(ids, backend.get_vocab().get(",</w>")), len(ids)]
    rows = []
    for first, end in pairwise(ends):
        rest = 75 - (end - first)
        row = [backend.bos_token_id, *ids[first:end], backend.eos_token_id, *[backend.pad_token_id] * rest]
        rows.append((row, [1.0, *weights[first:end], 1.0, *[1.0] * rest]))
    return tuple(np.asarray(each) for each in zip(*rows))


def states(pipe, torch_pipe, *sides, **options):
    """PyTorch states of prompts, all of as many chunks as the longest."""
    read = [rule(pipe.tokenizer, parts) for parts in sides]
    most = max(len(ids) for ids, _ in read)
    empty = rule(pipe.tokenizer, [("", 1.0)])
    full = [tuple(np.concatenate([own, *[none] * (most - len(own))]) for own, none in zip(one, empty)) for one in read]
    with torch.no_grad():
        return [a1111.encode(torch_pipe.text_encoder, *one, **options) for one in full]


def pictures(torch_pipe, embeds, negative, noise, steps, **options):
    """(final latents, pictures in [0, 1]) of diffusers."""
    with torch.no_grad():
        final = torch_pipe(
            prompt_embeds=embeds,
            negative_prompt_embeds=negative,
            latents=torch.tensor(noise.transpose(0, 3, 1, 2)),
            num_inference_steps=steps,
            output_type="latent",
            **RUN,
            **options,
        ).images
        images = torch_pipe.vae.decode(final / torch_pipe.vae.config.scaling_factor).sample
    return [result.numpy().transpose(0, 2, 3, 1) for result in (final, (images / 2 + 0.5).clamp(0, 1))]


def check(pipe, expected, tolerance, prompt, **options):
    for output, wanted in zip(("latents", "float32"), expected):
        found = pipe(prompt, output=output, prompt_syntax="a1111", **RUN, **options)
        np.testing.assert_allclose(found, wanted, atol=tolerance * max(1, np.abs(wanted).max()))


def noise_of(dtype):
    return np.random.default_rng(0).normal(size=(1, 8, 8, 4)).astype(dtype)


@pytest.mark.parametrize(
    ("kind", "dtype", "tolerance", "emphasis", "clip_skip"),
    [
        pytest.param("sd15", "float32", 1e-4, "original", 2, marks=pytest.mark.slow),
        ("sd21", "float64", 1e-9, "no_norm", 1),
    ],
)
def test_long_weighted_prompts(kind, dtype, tolerance, emphasis, clip_skip):
    """Of several chunks, the last one short, beside a negative prompt of one; with a layer of the encoder left out."""
    torch_pipe = theirs(kind, dtype == "float64")
    noise = noise_of(dtype)
    with jax.enable_x64(dtype == "float64"):
        pipe = ours(kind, torch_pipe, jnp.dtype(dtype))
        sides = [(FILLER * 7, 1.0), *LONG], [("blurry ", 1.0), ("cat", 2.0)]
        options = {"layer": -clip_skip, "restore": emphasis == "original"}
        assert len(rule(pipe.tokenizer, sides[0])[0]) > 2
        embeds = states(pipe, torch_pipe, *sides, **options)
        expected = pictures(torch_pipe, *embeds, noise, 3)
        run = {"steps": 3, "latents": noise, "emphasis": emphasis, "clip_skip": clip_skip}
        check(pipe, expected, tolerance, FILLER * 7 + WRITTEN, negative_prompt="blurry (cat:2)", **run)
        assert expected[1].std() > 0.05
        plain = pictures(torch_pipe, *states(pipe, torch_pipe, *sides), noise, 3)
        assert np.abs(plain[0] - expected[0]).max() > 100 * tolerance  # that there is something to tell apart


def test_long_weighted_prompts_of_xl(tmp_path):
    """Both encoders' states before their last layer, chunk by chunk beside each other, and the first chunk's vector."""
    torch_pipe = xl.theirs(double=True)
    pipe = dbx.load_pretrained(xl.written(tmp_path / "model"))
    parts, more = [(FILLER * 7, 1.0), *LONG], [("a bird", 1.0)]
    with jax.enable_x64(True):
        pipe = xl.doubled(pipe, torch_pipe)
        read = {name: read_chunks(f"{FILLER * 7}{WRITTEN} BREAK a bird", one) for name, one in pipe.tokenizers.items()}
        ids, weights = ({name: getattr(one, what)[None] for name, one in read.items()} for what in ("ids", "weights"))
        found = pipe.conditioner.of_chunks(pipe.params, ids, weights, restore_mean=np.asarray(True))
    expected = []
    for name, tokenizer in pipe.tokenizers.items():
        rows = [np.concatenate(some) for some in zip(rule(tokenizer, parts), rule(tokenizer, more))]
        encoder = getattr(torch_pipe, name)
        with torch.no_grad():
            output = encoder(torch.tensor(rows[0]).long(), output_hidden_states=True)
            states = output.hidden_states[-2].numpy()
        weighted = states * rows[1][..., None]
        weighted *= states.mean((1, 2), keepdims=True) / weighted.mean((1, 2), keepdims=True)
        expected.append(weighted.reshape(1, -1, states.shape[-1]))
    assert expected[0].shape[1] >= 4 * 77
    np.testing.assert_allclose(found.states, np.concatenate(expected, -1), atol=1e-9)
    np.testing.assert_allclose(found.pooled, output.text_embeds[:1].numpy(), atol=1e-9)


def test_clip_skip_is_that_of_diffusers_and_one():
    """Which it counts from 0, and does not do to negative prompts: A1111 does."""
    torch_pipe = theirs("sd15", double=True)
    with jax.enable_x64(True):
        pipe = ours("sd15", torch_pipe, jnp.float64)
        torch_pipe.tokenizer, text_encoder = pipe.tokenizer.backend, torch_pipe.text_encoder
        if not hasattr(text_encoder, "text_model"):  # transformers 5, which diffusers' clip_skip does not know
            object.__setattr__(text_encoder, "text_model", text_encoder)
        conditioner = pipe.conditioner.clone(clip_skip=2)
        ids = pipe.input_ids(["a photo of sks dog"])
        params = jax.tree.map(np.asarray, {"text_encoder": pipe.params["text_encoder"]})
        del params["text_encoder"]["text_model"]["encoder"]["layers_1"]  # the last one: it is not computed
        found = np.asarray(jax.jit(lambda *inputs: conditioner(*inputs).states)(params, ids))
    with torch.no_grad():
        wanted, _ = torch_pipe.encode_prompt("a photo of sks dog", "cpu", 1, False, clip_skip=1)
        last, _ = torch_pipe.encode_prompt("a photo of sks dog", "cpu", 1, False)
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-12)
    assert np.abs(found - last.numpy()).max() > 0.1


@pytest.mark.parametrize(
    ("sampler", "calls", "prompt", "texts", "of_step"),
    [
        ("ddim", 1, "a [red:blue:2] [dog|cat]", ["red dog", "red cat", "blue dog", "blue cat"], [0, 1, 2, 3, 2]),
        pytest.param(
            *("heun", 2, "a [red:blue:0.4] dog", ["red dog", "blue dog"], [0, 0, 1, 1, 1]), marks=pytest.mark.slow
        ),
    ],
)
def test_prompts_that_change(sampler, calls, prompt, texts, of_step):
    """diffusers' pipeline, which is given other states after a step; a step of two calls has one text."""
    torch_pipe = theirs("sd15", double=True)
    if sampler == "heun":
        torch_pipe.scheduler = diffusers.HeunDiscreteScheduler.from_config(
            torch_pipe.scheduler.config, timestep_spacing="leading"
        )
    noise, steps = noise_of("float64"), len(of_step)
    with jax.enable_x64(True):
        pipe = ours("sd15", torch_pipe, jnp.float64)
        sides = [[(f"a {text}", 1.0)] for text in texts]
        *embeds, negative = states(pipe, torch_pipe, *sides, [("blurry", 1.0)])

        def change(_, call, __, tensors):
            step = min((call + 1) // calls, steps - 1)
            return {"prompt_embeds": torch.cat([negative, embeds[of_step[step]]])}

        told = {"callback_on_step_end": change, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
        expected = pictures(torch_pipe, embeds[0], negative, noise, steps, **told)
        run = {"steps": steps, "latents": noise, "sampler": sampler, "negative_prompt": "blurry"}
        check(pipe, expected, 1e-5 if sampler == "heun" else 1e-9, prompt, **run)  # their sigmas are in float32
        without = pictures(torch_pipe, embeds[0], negative, noise, steps)
        assert np.abs(without[0] - expected[0]).max() > 0.01


def test_the_mean_is_that_of_each_chunk_alone():
    states, weights = np.random.default_rng(0).normal(0.3, 1, (3, 5, 4)), np.ones((3, 5))
    weights[1, 2:4], weights[2, 1] = 1.5, -0.5
    with jax.enable_x64(True):
        restored = emphasised(jnp.asarray(states), jnp.asarray(weights), restore_mean=jnp.asarray(True))
        plain = emphasised(jnp.asarray(states), jnp.asarray(weights), restore_mean=jnp.asarray(False))
        nothing = emphasised(jnp.zeros((1, 5, 4)), jnp.zeros((1, 5)), restore_mean=jnp.asarray(True))
    restored, plain, nothing = map(np.asarray, (restored, plain, nothing))
    np.testing.assert_array_equal(restored[0], states[0])
    np.testing.assert_allclose(restored.mean((1, 2)), states.mean((1, 2)), rtol=1e-12)
    np.testing.assert_allclose(plain, states * weights[:, :, None], rtol=1e-15)
    for i in (1, 2):
        ratio = restored[i] / plain[i]
        np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-12)
        assert abs(ratio.mean() - 1) > 1e-3
    assert (nothing == 0).all()
