# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Single files of Stable Diffusion XL in the layout of the original code: what diffusers reads of one, we read."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from dreambooth_jax import save_pretrained
from dreambooth_jax.errors import InputError
from dreambooth_jax.export.chosen import export
from dreambooth_jax.models.families import SDXL_REFINER
from dreambooth_jax.options import ExportOptions
from dreambooth_jax.pipeline import load_pretrained
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
LOGIT_SCALE = "conditioner.embedders.1.model.logit_scale"
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


@pytest.mark.parity
def test_a_refiner_is_the_model_that_diffusers_makes_of_it(file, tmp_path):
    """And its folder, as we write it, has what diffusers needs besides."""
    diffusers = pytest.importorskip("diffusers")
    original = REFINER.write(tmp_path / "refiner.safetensors")
    ours = load_pretrained(original, tokenizer=file.parent)
    save_pretrained(tmp_path / "folder", ours, ours.params)
    theirs = diffusers.StableDiffusionXLImg2ImgPipeline.from_single_file(
        str(original), config=str(tmp_path / "folder"), local_files_only=True
    )
    assert theirs.text_encoder is theirs.tokenizer is None
    assert_same(ours.params, {name: torch_models.params_from_torch(getattr(theirs, name)) for name in ours.params})


def test_what_it_says_of_itself(components, file, tmp_path):
    """By the model specification; the same model is the same file, byte for byte, also when it was read from one."""
    one = written(tmp_path / "a" / "dog.safetensors", components)
    with safe_open(one, "np") as opened:
        said = opened.metadata()
    assert said["modelspec.architecture"] == "stable-diffusion-xl-v1-base"
    assert (said["modelspec.prediction_type"], said["modelspec.title"]) == ("epsilon", "dog")
    assert not check_file(one).damage, "its hash is that of its arrays"
    again = load_components(one, tokenizer=file.parent)
    assert again.configs == components.configs
    assert written(tmp_path / "b" / "dog.safetensors", again).read_bytes() == one.read_bytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_round_trip(file, dtype, tmp_path):
    """Also of the number that is no parameter of ours; positions stay whole numbers."""
    half = {
        name: array.astype(dtype) if array.dtype == np.float32 else array
        for name, array in (load_file(file) | {LOGIT_SCALE: np.asarray(4.321, np.float32)}).items()
    }
    save_file(half, tmp_path / "half.safetensors")
    found = load_components(tmp_path / "half.safetensors", tokenizer=file.parent)
    same_arrays(tmp_path / "half.safetensors", written(tmp_path / "again.safetensors", found, dtype=dtype))


def test_layers_that_differ_are_read_as_they_are(tmp_path, file):
    """Of SSD-1B's kind, from the file alone and by what our own file says."""
    ssd = dataclasses.replace(
        OriginalXL(), num_res_blocks=2, down_depths=((0, 0), (2, 1)), up_depths=((3, 1, 2), (0, 0, 0)), middle_parts=1
    )
    original = ssd.write(tmp_path / "ssd.safetensors")
    found = load_components(original, tokenizer=file.parent)
    config = found.modules["unet"].config
    assert config.transformer_layers_per_block == (1, (2, 1))
    assert config.reverse_transformer_layers_per_block == ((3, 1, 2), 1)
    assert config.mid_block_type == "UNetMidBlock2D"
    again = written(tmp_path / "again.safetensors", found)
    same_arrays(original, again)
    assert load_components(again, tokenizer=file.parent).modules == found.modules


def test_an_adapter_of_sgm_names_is_merged_into_a_file(file, tmp_path):
    """Blocks of this model have one layer, which its names count."""
    key = "model.diffusion_model.output_blocks.1.1.transformer_blocks.1.attn2.to_k.weight"
    old = load_file(file)
    down, up = (
        np.random.default_rng(i).normal(size=shape).astype(np.float32) for i, shape in enumerate([(2, 192), (128, 2)])
    )
    name = "lora_unet_output_blocks_1_1_transformer_blocks_1_attn2_to_k"
    pair = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": np.float32([1])}
    save_file(pair, tmp_path / "lora.safetensors")
    lora = (f"{tmp_path / 'lora.safetensors'}:0.5",)
    out = tmp_path / "merged.safetensors"
    export(ExportOptions(source=str(file), out=str(out), format="ldm", lora=lora))
    new = load_file(out)
    np.testing.assert_allclose(new.pop(key), old.pop(key) + 0.5 * 0.5 * up @ down, rtol=1e-5, atol=1e-6)
    assert all(array.tobytes() == new[name].tobytes() for name, array in old.items())


def test_another_autoencoder_in_a_file_of_its_own(file, tmp_path):
    """Such as the one that fits float16: its latents are scaled as the model's."""
    start = "first_stage_model."
    vae = {name.removeprefix(start): array + 1 for name, array in load_file(file).items() if name.startswith(start)}
    save_file(vae, tmp_path / "vae.safetensors")
    own, other = load_pretrained(file), load_pretrained(file, vae=tmp_path / "vae.safetensors")
    assert other.vae.config == own.vae.config
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x + 1, y), own.params["vae"], other.params["vae"])


@pytest.mark.slow
@pytest.mark.parity
def test_pictures_of_a_file_are_diffusers(file, folder):
    import torch

    theirs, ours = from_single_file(file, folder), load_pretrained(file)
    start = np.random.default_rng(0).normal(size=(1, 8, 8, 4)).astype(np.float32)
    sizes = {"original_size": (16, 16), "target_size": (16, 16), "crops_coords_top_left": (0, 0)}
    expected = theirs(
        "a photo of sks dog", negative_prompt="blurry", num_inference_steps=3, guidance_scale=5.0, output_type="np",
        height=16, width=16, latents=torch.tensor(start).permute(0, 3, 1, 2), **sizes,
    ).images  # fmt: skip
    found = ours(
        "a photo of sks dog",
        negative_prompt="blurry",
        steps=3,
        guidance_scale=5.0,
        sampler="model",
        latents=start,
        output="float32",
    )
    assert np.abs(found - expected).max() <= 1e-3


def test_what_marks_say_of_the_noise(file, tmp_path):
    marked = load_file(file) | {name: np.zeros(0, np.float32) for name in ("v_pred", "ztsnr")}
    save_file(marked, tmp_path / "v.safetensors")
    found = open_single_file(tmp_path / "v.safetensors").scheduler_config
    assert (found["prediction_type"], found["rescale_betas_zero_snr"]) == ("v_prediction", True)
    save_file(load_file(file) | {"edm_mean": np.zeros(4, np.float32)}, tmp_path / "edm.safetensors")
    with pytest.raises(InputError, match="trained on EDM's noise"):
        open_single_file(tmp_path / "edm.safetensors")


def test_an_adapter_for_it_is_no_model(tmp_path):
    """Told by the width of the text where no text encoder is changed."""
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight"
    for width, whose in ((2048, "a Stable Diffusion XL"), (768, "a model")):
        save_file({name: np.zeros((4, width), np.float32)}, tmp_path / "lora.safetensors")
        with pytest.raises(
            InputError, match=rf"lora\.safetensors holds no whole model .* an adapter for {whose} \(LoRA\)"
        ):
            open_single_file(tmp_path / "lora.safetensors")


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
