# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Stable Diffusion XL read from a folder that diffusers wrote, and whole runs against ``StableDiffusionXLPipeline``."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import dreambooth_jax as dbx
from dreambooth_jax.config.drawing import DrawingConfig
from dreambooth_jax.errors import InputError
from dreambooth_jax.models.families import SDXL, family_of
from dreambooth_jax.pipeline.program import static_of
from dreambooth_jax.weights.embeddings import write_embedding
from tests import torch_models
from tests.pipeline.diffusers_noise import posterior_noise, replaced
from tests.weights.folders import assert_same, shard
from tests.xl import NAMES, doubled, theirs, with_config, written

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore:.*:ResourceWarning")]
PROMPTS, NEGATIVE = ["a photo of sks dog", "a cat"], "blurry"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The model in float32, as ``save_pretrained`` writes it."""
    return written(tmp_path_factory.mktemp("xl") / "model")


@pytest.fixture(scope="module")
def pipe(folder):
    return dbx.load_pretrained(folder)


def drawn(torch_pipe, **settings):
    """(final latents, pictures in [0, 1]) of theirs."""
    with torch.no_grad():
        final = torch_pipe(output_type="latent", **settings).images
        images = torch_pipe.vae.decode(final / torch_pipe.vae.config.scaling_factor).sample
    return (result.numpy().transpose(0, 2, 3, 1) for result in (final, (images / 2 + 0.5).clamp(0, 1)))


def test_the_folder_is_read_and_written_again(folder, pipe, tmp_path):
    assert pipe.components.family is SDXL
    torch_pipe = theirs()
    assert_same(pipe.params, {name: torch_models.params_from_torch(getattr(torch_pipe, name)) for name in NAMES})
    assert list(pipe.tokenizers) == ["text_encoder", "text_encoder_2"]
    ids = pipe.input_ids(["a dog"])
    assert (ids["text_encoder"] != ids["text_encoder_2"]).any()  # they pad otherwise
    dbx.save_pretrained(tmp_path / "again", pipe, pipe.params)
    ours, original = (json.loads((path / "model_index.json").read_text()) for path in (tmp_path / "again", folder))
    dropped = ("_diffusers_version", "_name_or_path", "add_watermarker")
    tokens = {"tokenizer": ["transformers", "CLIPTokenizer"], "tokenizer_2": ["transformers", "CLIPTokenizer"]}
    assert ours == {name: value for name, value in original.items() if name not in dropped} | tokens
    assert_same(dbx.load_pretrained(tmp_path / "again").params, pipe.params)
    opened = diffusers.StableDiffusionXLPipeline.from_pretrained(tmp_path / "again")
    for name in NAMES:
        assert_same(torch_models.params_from_torch(getattr(opened, name)), pipe.params[name])


def test_shards_and_variants(folder, pipe, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    for name in ("unet", "vae"):
        shard(tmp_path / "model", name)
    for name in ("text_encoder", "text_encoder_2"):
        file = tmp_path / "model" / name / "model.safetensors"
        file.rename(file.with_name("model.fp16.safetensors"))
    assert_same(dbx.load_pretrained(tmp_path / "model", variant="fp16").params, pipe.params)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [pytest.param("float32", 1e-4, marks=pytest.mark.slow), ("float64", 1e-9)]
)
def test_guided_runs(pipe, dtype, tolerance):
    torch_pipe = theirs(double=dtype == "float64")
    noise = np.random.default_rng(0).normal(size=(2, 8, 12, 4)).astype(dtype)
    told = {"original": (40, 31), "crop": (3, 5), "target": (16, 30)}
    sizes = {
        f"{name}_{side}": value
        for name in ("original", "target")
        for side, value in zip(("height", "width"), told[name])
    }
    sizes |= {"crop_top": 3, "crop_left": 5}
    torch_sizes = {
        "original_size": told["original"],
        "crops_coords_top_left": told["crop"],
        "target_size": told["target"],
    }
    with jax.enable_x64(dtype == "float64"):
        ours = doubled(pipe, torch_pipe) if dtype == "float64" else pipe
        for negative, steps, scale, more in ((NEGATIVE, 6, 7.5, True), (None, 5, 5.0, False), (None, 3, 1.0, False)):
            run = {"steps": steps, "guidance_scale": scale, "latents": noise, **(sizes if more else {})}
            latents, images = (
                ours(PROMPTS, negative_prompt=negative, output=out, **run) for out in ("latents", "float32")
            )
            expected, pictures = drawn(
                torch_pipe,
                prompt=PROMPTS,
                negative_prompt=negative and [negative] * 2,
                latents=torch.tensor(noise.transpose(0, 3, 1, 2)),
                height=16,
                width=24,
                num_inference_steps=steps,
                guidance_scale=scale,
                **(torch_sizes if more else {}),
            )
            assert latents.dtype == images.dtype == dtype
            np.testing.assert_allclose(latents, expected, atol=tolerance * np.abs(expected).max())
            np.testing.assert_allclose(images, pictures, atol=tolerance)
            assert pictures.std() > 0.05


def test_what_is_told_counts(pipe):
    """Each of the six numbers; what is not told is the size that is drawn, without cuts."""
    run = {"steps": 2, "guidance_scale": 1.0, "height": 16, "width": 24, "output": "float32"}
    plain = pipe("a dog", **run)
    same = {"original_height": 16, "original_width": 24, "target_height": 16, "target_width": 24}
    np.testing.assert_array_equal(pipe("a dog", **same, **run), plain)
    for name in (*same, "crop_top", "crop_left"):
        assert np.abs(pipe("a dog", **{name: 99}, **run) - plain).max() > 1e-3, name


@pytest.mark.parametrize(("asked", "wanted"), [(1, -2), (2, -2), (3, -3)])
def test_layers_are_skipped_as_forge_counts_them(pipe, asked, wanted):
    """2 is the layer that XL reads anyway, as a picture of A1111, Forge or ComfyUI says that was made with it."""
    torch_pipe, ids = theirs(), pipe.input_ids(["a dog"])
    (networks, _) = static_of(pipe, DrawingConfig(clip_skip=asked))
    with torch.no_grad():
        states = [
            getattr(torch_pipe, name)(torch.tensor(rows).long(), output_hidden_states=True).hidden_states[wanted]
            for name, rows in ids.items()
        ]
    np.testing.assert_allclose(
        networks.conditioner(pipe.params, ids).states, torch.cat(states, -1).numpy(), rtol=1e-5, atol=1e-5
    )


def test_more_layers_than_there_are_cannot_be_skipped(pipe):
    most = pipe.text_encoder.config.num_hidden_layers + 1
    with pytest.raises(InputError, match=rf"^clip_skip = {most + 1}: must be at most {most}, "):
        static_of(pipe, DrawingConfig(clip_skip=most + 1))


@pytest.mark.slow
def test_an_empty_negative_prompt_says_nothing(pipe):
    """Of each picture by itself; models that were not trained so are told what their text encoders say."""
    run = {"steps": 2, "guidance_scale": 5.0, "height": 16, "width": 16, "output": "float32"}
    mixed = pipe(PROMPTS, negative_prompt=["", NEGATIVE], **run)
    both = pipe(PROMPTS, negative_prompt="", **run), pipe(PROMPTS, negative_prompt=NEGATIVE, **run)
    for i, expected in enumerate(both):
        np.testing.assert_allclose(mixed[i], expected[i], atol=1e-5)
    drawn = pipe(PROMPTS, negative_prompt="{|}", prompt_syntax="a1111", **run)  # wildcards that leave nothing
    np.testing.assert_allclose(drawn, both[0], atol=1e-5)
    components = dataclasses.replace(pipe.components, index={"force_zeros_for_empty_prompt": False})
    other = dataclasses.replace(pipe, components=components)(PROMPTS, negative_prompt="", **run)
    assert np.abs(other - both[0]).max() > 1e-3


@pytest.mark.parametrize("name", ["StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"])
def test_its_other_pipelines_are_of_the_family(name):
    assert family_of(name) is SDXL


@pytest.mark.parametrize(
    ("component", "changes", "message"),
    [
        ("text_encoder", {"hidden_size": 36}, "cross_attention_dim = 80 does not fit .* 84 together"),
        ("text_encoder_2", {"projection_dim": 41}, "input_dim = 88 is not 6 x addition_time_embed_dim = 8 and .* = 41"),
        ("unet", {"addition_embed_type": None}, "addition_embed_type = None is not text_time"),
    ],
)
def test_what_does_not_fit_is_one_line(folder, tmp_path, component, changes, message):
    with pytest.raises(InputError, match=message):
        dbx.load_pretrained(with_config(folder, tmp_path / "model", component, changes))


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_runs_from_a_picture(pipe, masked):
    torch_pipe = theirs()
    cls = diffusers.StableDiffusionXLInpaintPipeline if masked else diffusers.StableDiffusionXLImg2ImgPipeline
    torch_pipe = cls(**torch_pipe.components, force_zeros_for_empty_prompt=True)
    torch_pipe.set_progress_bar_config(disable=True)
    module = f"pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_{'inpaint' if masked else 'img2img'}"
    r = np.random.default_rng(1)
    pictures = r.uniform(size=(2, 16, 24, 3)).astype("float32")
    masks = (r.uniform(size=(2, 16, 24)) > 0.4).astype("float32")
    noise = r.normal(size=(2, 8, 12, 4)).astype("float32")
    more = {"mask": masks, "mask_blur": 0} if masked else {}
    run = {"seed": 3, "steps": 10, "profile": "diffusers", "strength": 0.6, "latents": noise, "output": "latents"}
    found = pipe(PROMPTS, negative_prompt=NEGATIVE, guidance_scale=6.0, image=list(pictures), **more, **run)
    samples = [posterior_noise((3, 4), noise.shape[1:], "float32")]
    samples += [posterior_noise((3, 4), noise.shape[1:], "float32", "masked posterior")] if masked else []
    more = {"mask_image": torch.tensor(masks[:, None]), "height": 16, "width": 24} if masked else {}
    with torch.no_grad(), replaced("models.autoencoders.vae", *samples), replaced(module, noise):
        expected = torch_pipe(
            prompt=PROMPTS,
            negative_prompt=[NEGATIVE] * 2,
            image=torch.tensor(pictures.transpose(0, 3, 1, 2)),
            strength=0.6,
            num_inference_steps=10,
            guidance_scale=6.0,
            output_type="latent",
            **more,
        ).images
    expected = expected.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_a_word_for_both_encoders(pipe, tmp_path):
    """Theirs, where the second encoder looks for the end of a text by its token: as its file says, which is wrong,
    it takes the highest token instead, and words that were added later are higher than the end."""
    r = np.random.default_rng(3)
    write_embedding(
        tmp_path / "toy.safetensors",
        "<toy>",
        {"text_encoder": r.normal(size=(2, 32)), "text_encoder_2": r.normal(size=(2, 48))},
    )
    torch_pipe = theirs(double=True)
    taught = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
    for (name, part), tokenizer in zip(taught.items(), ("tokenizer", "tokenizer_2"), strict=True):
        torch_pipe.load_textual_inversion(
            torch.tensor(load_file(tmp_path / "toy.safetensors")[part]),
            token="<toy>",
            text_encoder=getattr(torch_pipe, name),
            tokenizer=getattr(torch_pipe, tokenizer),
        )
    noise = r.normal(size=(1, 8, 8, 4))
    prompt, run = "a photo of <toy>", {"negative_prompt": "blurry <toy>", "guidance_scale": 4.0}

    def expected():
        latents = torch.tensor(noise.transpose(0, 3, 1, 2))
        return next(
            drawn(torch_pipe, prompt=prompt, latents=latents, height=16, width=16, num_inference_steps=2, **run)
        )

    with jax.enable_x64(True):
        ours = doubled(pipe, theirs(double=True)).with_embeddings({"<toy>": tmp_path / "toy.safetensors"})
        found = ours(prompt, latents=noise, steps=2, output="latents", **run)
    at_the_word = expected()
    torch_pipe.text_encoder_2.text_model.eos_token_id = torch_pipe.tokenizer_2.eos_token_id
    np.testing.assert_allclose(found, expected(), rtol=0, atol=1e-9)
    assert np.abs(found - at_the_word).max() > 0.1
