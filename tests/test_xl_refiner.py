# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The refiner of Stable Diffusion XL: its folder, itself, and as the second stage of a run, against diffusers."""

import json
import shutil

import pytest

import dreambooth_jax as dbx
from dreambooth_jax.errors import InputError
from dreambooth_jax.models.families import SDXL, SDXL_REFINER, family_of
from tests import torch_models
from tests.weights.folders import assert_same
from tests.xl import refiner, theirs

pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore:.*:ResourceWarning")]
NAMES = ("text_encoder_2", "unet", "vae")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The refiner in float32, as ``save_pretrained`` writes it."""
    path = tmp_path_factory.mktemp("refiner") / "model"
    refiner(theirs()).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def fine(folder):
    return dbx.load_pretrained(folder)


def test_the_folder_is_read_and_written_again(folder, fine, tmp_path):
    assert fine.components.family is SDXL_REFINER
    torch_pipe = refiner(theirs())
    assert_same(fine.params, {name: torch_models.params_from_torch(getattr(torch_pipe, name)) for name in NAMES})
    assert list(fine.tokenizers) == ["text_encoder_2"]
    dbx.save_pretrained(tmp_path / "again", fine, fine.params)
    ours, original = (json.loads((path / "model_index.json").read_text()) for path in (tmp_path / "again", folder))
    dropped = ("_diffusers_version", "_name_or_path", "add_watermarker")
    assert ours == {name: value for name, value in original.items() if name not in dropped} | {
        "tokenizer_2": ["transformers", "CLIPTokenizer"]
    }
    assert_same(dbx.load_pretrained(tmp_path / "again").params, fine.params)
    opened = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "again")
    assert isinstance(opened, diffusers.StableDiffusionXLImg2ImgPipeline)
    assert opened.config.requires_aesthetics_score
    assert opened.text_encoder is opened.tokenizer is None
    for name in NAMES:
        assert_same(torch_models.params_from_torch(getattr(opened, name)), fine.params[name])


def test_a_refiner_is_told_by_what_it_does_without():
    img2img = "StableDiffusionXLImg2ImgPipeline"
    assert family_of(img2img) is SDXL
    assert family_of(img2img, absent=["feature_extractor", "image_encoder"]) is SDXL
    assert family_of(img2img, absent=["text_encoder", "tokenizer"]) is SDXL_REFINER


@pytest.mark.parametrize(
    ("component", "changes", "message"),
    [
        ("text_encoder_2", {"hidden_size": 36}, "cross_attention_dim = 48 does not fit the text_encoder_2's .* = 36"),
        ("text_encoder_2", {"projection_dim": 41}, "dim = 80 is not 5 x addition_time_embed_dim = 8 and .* = 41"),
    ],
)
def test_what_does_not_fit_is_one_line(folder, tmp_path, component, changes, message):
    shutil.copytree(folder, tmp_path / "model")
    file = tmp_path / "model" / component / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(InputError, match=message):
        dbx.load_pretrained(tmp_path / "model")
