# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Single files and diffusers: what it reads of them, we read; what we write, it opens."""

import jax
import numpy as np
import pytest

from dreambooth_jax.pipeline import load_pretrained
from dreambooth_jax.weights.ldm_writing import write_single_file
from dreambooth_jax.weights.pretrained import load_components
from tests import torch_models
from tests.weights.folders import FIXTURES, assert_same
from tests.weights.originals import Original

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

COMPONENTS = ("text_encoder", "unet", "vae")
# Networks as the published ones are: groups of 32, eight heads or heads of 64 channels, heads of 64 in the text tower.
_REAL = {"norm_num_groups": 32, "block_out_channels": (64, 128), "layers_per_block": 2}
CASES = {
    "sd1": ("sd15", Original(num_res_blocks=2), {"attention_head_dim": 8, "cross_attention_dim": 64}),
    "inpainting": (
        "sd15",
        Original(num_res_blocks=2, in_channels=9),
        {"attention_head_dim": 8, "cross_attention_dim": 64, "in_channels": 9},
    ),
    "sd2": (
        "sd21_base",
        Original(version=2, num_res_blocks=2, context_dim=128),
        {"attention_head_dim": (1, 2), "cross_attention_dim": 128, "sample_size": 64},
    ),
}


def configurations(kind, sizes, unet_options, folder):
    """A folder of diffusers for networks of these sizes; its weights are no matter."""
    width = sizes.context_dim
    text = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 64}
    which = "legacy_flax_sd15" if sizes.version == 1 else "legacy_flax_sd21"
    pipe = diffusers.StableDiffusionPipeline(
        unet=torch_models.build_unet(kind, **{**_REAL, "sample_size": 64, **unet_options}),
        vae=torch_models.build_vae(norm_num_groups=32, layers_per_block=2),
        text_encoder=torch_models.build_text_encoder(kind, **text),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(FIXTURES / which / "tokenizer"),
        scheduler=diffusers.DDIMScheduler.from_config(torch_models.scheduler_config(kind)),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return folder


def from_single_file(file, folder):
    """diffusers' pipeline of a file."""
    return diffusers.StableDiffusionPipeline.from_single_file(
        str(file), config=str(folder), local_files_only=True, safety_checker=None
    )


@pytest.fixture(scope="module", params=CASES)
def opened(request, tmp_path_factory):
    """(an original file, the pipeline that diffusers makes of it, a folder with its configurations)."""
    kind, sizes, unet_options = CASES[request.param]
    home = tmp_path_factory.mktemp(request.param)
    folder = configurations(kind, sizes, unet_options, home / "folder")
    file = sizes.write(home / "original.safetensors")
    return file, from_single_file(file, folder), folder


def test_we_read_what_diffusers_reads(opened):
    file, theirs, folder = opened
    ours = load_components(file, tokenizer=folder)
    assert_same(ours.params, {name: torch_models.params_from_torch(getattr(theirs, name)) for name in COMPONENTS})


def test_a_file_is_the_model_that_its_folder_is(opened, tmp_path):
    """Networks with all their settings, weights, noise schedule and token ids: all that a picture depends on."""
    file, theirs, folder = opened
    theirs.save_pretrained(tmp_path / "model")
    of_file, of_folder = load_components(file, tokenizer=folder), load_components(tmp_path / "model")
    assert of_file.modules == of_folder.modules
    assert_same(of_file.params, of_folder.params)
    same = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps", "prediction_type", "steps_offset")
    for key in (*same, "set_alpha_to_one", "clip_sample"):
        assert of_file.scheduler_config[key] == of_folder.scheduler_config[key], key


def test_diffusers_opens_what_we_write(opened, tmp_path):
    file, _, folder = opened
    components = load_components(file, tokenizer=folder)
    other = jax.tree.map(lambda leaf: leaf + np.float32(0.5), components.params)
    write_single_file(
        tmp_path / "ours.safetensors",
        params=other,
        configs=components.configs,
        scheduler_config=components.scheduler_config,
    )
    again = from_single_file(tmp_path / "ours.safetensors", folder)
    assert_same({name: torch_models.params_from_torch(getattr(again, name)) for name in COMPONENTS}, other)


@pytest.mark.parametrize("kind", torch_models.KINDS)
def test_diffusers_opens_networks_that_are_like_no_others(kind, tmp_path):
    """Heads and groups that no shape tells."""
    fixture = FIXTURES / ("legacy_flax_sd15" if kind == "sd15" else "legacy_flax_sd21")
    models = torch_models.build(kind)
    folder = tmp_path / "folder"
    diffusers.StableDiffusionPipeline(
        unet=models.unet,
        vae=models.vae,
        text_encoder=models.text_encoder,
        tokenizer=transformers.CLIPTokenizer.from_pretrained(fixture / "tokenizer"),
        scheduler=diffusers.DDIMScheduler.from_config(torch_models.scheduler_config(kind)),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    components = load_components(folder)
    file = tmp_path / "ours.safetensors"
    write_single_file(
        file, params=components.params, configs=components.configs, scheduler_config=components.scheduler_config
    )
    opened = from_single_file(file, folder)
    for name in COMPONENTS:
        old, new = getattr(models, name).state_dict(), getattr(opened, name).state_dict()
        assert old.keys() == new.keys()
        for key in old:
            np.testing.assert_array_equal(new[key], old[key], err_msg=f"{name} {key}")
    again = load_components(file, tokenizer=folder)
    assert again.modules == components.modules
    assert again.scheduler_config == components.scheduler_config
    assert_same(again.params, components.params)


@pytest.mark.slow
@pytest.mark.parametrize("opened", ["sd1"], indirect=True)
def test_pictures_of_a_file_are_diffusers(opened):
    file, theirs, folder = opened
    theirs.set_progress_bar_config(disable=True)
    ours = load_pretrained(file, tokenizer=folder)
    start = np.random.default_rng(0).normal(size=(1, 8, 8, 4)).astype(np.float32)
    options = {"prompt": "a photo of sks dog", "negative_prompt": "blurry", "num_inference_steps": 3}
    size = {"height": 16, "width": 16, "latents": torch.tensor(start).permute(0, 3, 1, 2)}
    expected = {
        kind: theirs(**options, **size, output_type=kind, guidance_scale=7.5).images for kind in ("latent", "np")
    }
    found = {
        kind: ours("a photo of sks dog", negative_prompt="blurry", steps=3, latents=start, output=kind)
        for kind in ("latents", "float32")
    }
    latents = expected["latent"].permute(0, 2, 3, 1).numpy()
    assert np.abs(found["latents"] - latents).max() <= 1e-4 * np.abs(latents).max()
    assert np.abs(found["float32"] - expected["np"]).max() <= 1e-3
