# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Single files of Stable Diffusion XL in the layout of the original code: what diffusers reads of one, we read."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dreambooth_jax.errors import InputError
from dreambooth_jax.models.families import SDXL_REFINER
from dreambooth_jax.weights.checking import check_file
from dreambooth_jax.weights.ldm_writing import write_single_file
from dreambooth_jax.weights.pretrained import load_components
from dreambooth_jax.weights.single_file import open_single_file
from tests import torch_models, xl
from tests.weights.folders import assert_same
from tests.weights.originals import REFINER, OriginalXL

NETWORKS = ("text_encoder", "text_encoder_2", "unet", "vae")
UNET = {
    "norm_num_groups": 32,
    "block_out_channels": (64, 128),
    "attention_head_dim": (1, 2),
    "transformer_layers_per_block": 2,
    "cross_attention_dim": 64 + 128,
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 6 * 256 + 96,
    "sample_size": 128,
}
"""Of ``OriginalXL``, with what all the published networks have in common."""
CLIP = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 1}
OPEN_CLIP = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 2, "projection_dim": 96}
OPEN_CLIP |= {"eos_token_id": 552}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file of the original code with its tokenizers beside it."""
    home = tmp_path_factory.mktemp("xl")
    for name, kind in xl.TOKENIZERS.items():
        shutil.copytree(xl.FIXTURES / kind / "tokenizer", home / name)
    return OriginalXL().write(home / "original.safetensors")


@pytest.fixture(scope="module")
def components(file):
    return load_components(file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of diffusers, with the configurations of such networks; its weights are no matter."""
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    home = tmp_path_factory.mktemp("configurations")
    diffusers.StableDiffusionXLPipeline(
        unet=torch_models.build_unet(torch_models.XL, **UNET),
        vae=torch_models.build_vae(norm_num_groups=32, scaling_factor=0.13025, force_upcast=True),
        text_encoder=torch_models.build_text_encoder(torch_models.XL, **CLIP),
        text_encoder_2=torch_models.build_text_encoder_2(**OPEN_CLIP),
        scheduler=diffusers.EulerDiscreteScheduler.from_config(open_scheduler()),
        **{
            name: transformers.CLIPTokenizer.from_pretrained(xl.FIXTURES / kind / "tokenizer", model_max_length=77)
            for name, kind in xl.TOKENIZERS.items()
        },
        add_watermarker=False,
    ).save_pretrained(home)
    return home


def open_scheduler():
    """As the folder of stable-diffusion-xl-base-1.0 has it."""
    return {
        **{"_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012},
        **{"beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "prediction_type": "epsilon"},
        **{"interpolation_type": "linear", "use_karras_sigmas": False, "timestep_spacing": "leading"},
        "steps_offset": 1,
    }


def from_single_file(file, folder):
    """diffusers' pipeline of a file."""
    import diffusers

    pipe = diffusers.StableDiffusionXLPipeline.from_single_file(str(file), config=str(folder), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def same_arrays(one, other):
    """Whether two files hold the same arrays, byte for byte."""
    old, new = load_file(one), load_file(other)
    assert old.keys() == new.keys()
    for name, array in old.items():
        same = new[name]
        assert (array.dtype, array.shape, array.tobytes()) == (same.dtype, same.shape, same.tobytes()), name


def written(path, components, **options):
    write_single_file(
        path,
        params=components.params,
        configs=components.configs,
        scheduler_config=components.scheduler_config,
        family=components.family,
        **options,
    )
    return path


@pytest.mark.parity
def test_a_file_is_the_model_that_diffusers_makes_of_it(file, components, folder, tmp_path):
    """Networks with all their settings, weights, noise schedule: all that a picture depends on, both from the file and
    from the folder that diffusers makes of it."""
    theirs = from_single_file(file, folder)
    assert_same(components.params, {name: torch_models.params_from_torch(getattr(theirs, name)) for name in NETWORKS})
    theirs.save_pretrained(tmp_path / "model")
    of_folder = load_components(tmp_path / "model")
    assert components.family is of_folder.family
    assert components.modules == of_folder.modules
    assert_same(components.params, of_folder.params)
    for key, value in open_scheduler().items():
        assert components.scheduler_config[key] == of_folder.scheduler_config[key] == value, key


def test_what_is_read_is_written_again(file, components, tmp_path):
    again = written(tmp_path / "again.safetensors", components)
    same_arrays(file, again)


@pytest.mark.parity
def test_diffusers_opens_what_we_write(components, folder, tmp_path):
    theirs = from_single_file(written(tmp_path / "ours.safetensors", components), folder)
    assert_same({name: torch_models.params_from_torch(getattr(theirs, name)) for name in NETWORKS}, components.params)


def test_a_refiner_is_read_and_written(file, tmp_path):
    """It has the second text encoder alone, and a level without transformers beside the middle, which has some."""
    original = REFINER.write(tmp_path / "refiner.safetensors")
    found = load_components(original, tokenizer=file.parent)
    assert found.family is SDXL_REFINER
    assert found.modules["unet"].config.transformer_layers_per_block == 2
    same_arrays(original, written(tmp_path / "again.safetensors", found))
    assert check_file(original).base == "refiner of Stable Diffusion XL, which predicts epsilon"


def test_what_marks_say_of_the_noise(file, tmp_path):
    marked = load_file(file) | {name: np.zeros(0, np.float32) for name in ("v_pred", "ztsnr")}
    save_file(marked, tmp_path / "v.safetensors")
    found = open_single_file(tmp_path / "v.safetensors").scheduler_config
    assert (found["prediction_type"], found["rescale_betas_zero_snr"]) == ("v_prediction", True)
    save_file(load_file(file) | {"edm_mean": np.zeros(4, np.float32)}, tmp_path / "edm.safetensors")
    with pytest.raises(InputError, match="trained on EDM's noise"):
        open_single_file(tmp_path / "edm.safetensors")


def test_check_tells_it(file):
    report = check_file(file)
    assert report.kind == "a whole Stable Diffusion XL in a single file"
    assert report.base == "Stable Diffusion XL, which predicts epsilon"
    assert not report.damage


@pytest.mark.parametrize("given", ["", "tokenizer", "tokenizer_2"])
def test_tokenizers_are_given_by_any_of_them_or_their_home(file, given, tmp_path):
    alone = shutil.copyfile(file, tmp_path / "m.safetensors")
    found = load_components(alone, tokenizer=file.parent / given).tokenizers
    assert found == {"text_encoder": file.parent / "tokenizer", "text_encoder_2": file.parent / "tokenizer_2"}


def test_a_tokenizer_that_is_of_the_first_alone(file, tmp_path):
    with pytest.raises(InputError, match=r"the text_encoder_2 of a Stable Diffusion XL in .* with '!'"):
        load_components(file, tokenizer=xl.FIXTURES / "legacy_flax_sd15" / "tokenizer")
