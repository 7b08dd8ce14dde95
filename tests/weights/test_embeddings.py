# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Files of new words, in all forms that there are."""

import hashlib

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from dreambooth_jax.errors import InputError
from dreambooth_jax.weights.adapters import read_adapter
from dreambooth_jax.weights.embeddings import bundled_leaves, read_embeddings, vectors_for, write_embedding

R = np.random.default_rng(0)
ONE = {"text_encoder": R.normal(size=(3, 768)).astype(np.float32)}
TWO = {**ONE, "text_encoder_2": R.normal(size=(3, 1280)).astype(np.float32)}
WIDTHS = {"text_encoder": 768}


def widths(vectors):
    return {encoder: array.shape[1] for encoder, array in vectors.items()}


def assert_is(found, word, vectors):
    assert found.word == word
    read = vectors_for(found, widths(vectors))
    assert read.keys() == vectors.keys()
    for encoder, array in vectors.items():
        np.testing.assert_array_equal(read[encoder], array)
        assert read[encoder].dtype == np.float32


@pytest.mark.parametrize("vectors", [ONE, TWO], ids=["one text encoder", "two"])
@pytest.mark.parametrize("form", ["diffusers", "a1111"])
def test_what_is_written_is_read(tmp_path, form, vectors):
    """Where the file does not say the word, it is the file's name."""
    write_embedding(tmp_path / "toy.safetensors", "<cat toy>", vectors, form=form)
    (found,) = read_embeddings(tmp_path / "toy.safetensors")
    assert_is(found, "<cat toy>" if form == "diffusers" and len(vectors) == 1 else "toy", vectors)
    assert found.vectors == 3


def test_the_names_in_files_are_those_of_their_tools(tmp_path):
    forms = {"diffusers": ONE, "a1111": ONE}
    for form, vectors in forms.items():
        write_embedding(tmp_path / f"{form}.safetensors", "<toy>", vectors, form=form)
    write_embedding(tmp_path / "xl.safetensors", "<toy>", TWO)
    files = {name: load_file(tmp_path / f"{name}.safetensors") for name in (*forms, "xl")}
    shapes = {name: {k: v.shape for k, v in arrays.items()} for name, arrays in files.items()}
    assert shapes == {
        "diffusers": {"<toy>": (3, 768)},
        "a1111": {"emb_params": (3, 768)},
        "xl": {"clip_l": (3, 768), "clip_g": (3, 1280)},
    }
    assert bundled_leaves("<toy>", ONE).keys() == {"bundle_emb.<toy>.clip_l", "bundle_emb.<toy>.string_to_param.*"}
    assert bundled_leaves("<toy>", TWO).keys() == {"bundle_emb.<toy>.clip_l", "bundle_emb.<toy>.clip_g"}


def test_the_hash_is_that_of_the_numbers(tmp_path):
    metadata = {"modelspec.architecture": "stable-diffusion-v1/textual-inversion"}
    write_embedding(tmp_path / "toy.safetensors", "toy", ONE, metadata=metadata)
    with safe_open(tmp_path / "toy.safetensors", "np") as file:
        said = file.metadata()
    assert said["format"] == "pt"
    assert said["modelspec.architecture"] == metadata["modelspec.architecture"]
    assert said["sshs_model_hash"] == hashlib.sha256(ONE["text_encoder"].tobytes()).hexdigest()


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_forms_of_others(tmp_path, dtype):
    vector = ONE["text_encoder"][0].astype(dtype)
    save_file({"<toy>": vector}, tmp_path / "learned_embeds.safetensors")
    (found,) = read_embeddings(tmp_path / "learned_embeds.safetensors")
    assert_is(found, "<toy>", {"text_encoder": vector[None].astype(np.float32)})
    save_file({"a": vector, "b": ONE["text_encoder"]}, tmp_path / "several.safetensors")
    several = read_embeddings(tmp_path / "several.safetensors")
    assert {one.word: one.vectors for one in several} == {"a": 1, "b": 3}


@pytest.mark.parametrize("part", ["string_to_param.*", "emb_params", "clip_l"])
def test_words_in_the_file_of_a_lora(tmp_path, part):
    lora = {"lora_unet_x.lora_down.weight": np.ones((2, 3), np.float32)}
    save_file(lora | {f"bundle_emb.my.toy.{part}": ONE["text_encoder"]}, tmp_path / "a.safetensors")
    (found,) = read_embeddings(tmp_path / "a.safetensors")
    assert_is(found, "my.toy", ONE)


def test_both_forms_of_a_bundle_are_one_word(tmp_path):
    arrays = {name: leaf.load() for name, leaf in bundled_leaves("toy", ONE).items()}
    save_file(arrays, tmp_path / "a.safetensors")
    (found,) = read_embeddings(tmp_path / "a.safetensors")
    assert_is(found, "toy", ONE)


@pytest.mark.parametrize("kind", ["plain", "parameter", "diffusers"])
def test_pickles_are_read_and_not_unpickled(tmp_path, kind):
    torch = pytest.importorskip("torch")
    tensor = torch.tensor(ONE["text_encoder"])
    tensor = torch.nn.Parameter(tensor) if kind == "parameter" else tensor
    content = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": tensor},
        "name": "toy",
        "step": 100,
        "sd_checkpoint": None,
        "sd_checkpoint_name": None,
    }
    torch.save({"<toy>": tensor} if kind == "diffusers" else content, tmp_path / "charm.pt")
    (found,) = read_embeddings(tmp_path / "charm.pt")
    assert_is(found, "<toy>" if kind == "diffusers" else "charm", ONE)


@pytest.mark.parametrize("form", ["diffusers", "a1111"])
@pytest.mark.parametrize("vectors", [ONE, TWO], ids=["one text encoder", "two"])
def test_a_word_given_as_an_adapter_is_told_its_option_and_the_other_way_round(tmp_path, form, vectors):
    word, lora = tmp_path / "word.safetensors", tmp_path / "lora.safetensors"
    write_embedding(word, "toy", vectors, form=form)
    with pytest.raises(InputError, match=rf"holds new words \(textual inversion\): give it with embedding={word}$"):
        read_adapter(word)
    path = "lora_unet_mid_block_attentions_0_proj_in"
    save_file({f"{path}.lora_{end}.weight": np.ones((2, 2), np.float32) for end in ("down", "up")}, lora)
    with pytest.raises(InputError, match=rf"is an adapter, without new words: add it to the model with lora={lora}$"):
        read_embeddings(lora)


def test_another_model_is_one_line(tmp_path):
    write_embedding(tmp_path / "toy.safetensors", "toy", ONE)
    write_embedding(tmp_path / "xl.safetensors", "toy", TWO)
    (one,), (two,) = (read_embeddings(tmp_path / f"{name}.safetensors") for name in ("toy", "xl"))
    with pytest.raises(InputError, match=r"'toy' have 768 numbers, those of this model 1024.*\(Stable Diffusion 1\)"):
        vectors_for(one, {"text_encoder": 1024})
    with pytest.raises(InputError, match=r"768 and 1280 numbers, those of this model 768.*\(Stable Diffusion XL\)"):
        vectors_for(two, WIDTHS)
    with pytest.raises(InputError, match="768 numbers, those of this model 768 and 1280"):
        vectors_for(one, widths(TWO))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.ones((2, 3, 4), np.float32)}, "is no file of new words: its arrays are called a"),
        ({"a": np.ones((80, 4), np.float32)}, r"'a' has shape \[80, 4\], not that of 1 to 75 vectors"),
        (
            {"clip_l": np.ones((1, 4), np.float32), "clip_g": np.ones((2, 6), np.float32)},
            "has 1 of clip_l and 2 of clip_g: a word is as many vectors for each text encoder; take another copy",
        ),
        ({"emb_params": np.full((1, 4), np.nan, np.float32)}, "has values that are not finite"),
        ({"emb_params": np.ones((1, 4), np.int32)}, "is int32, not real"),
        ({"clip_l": np.ones((1, 4), np.float32), "more": np.ones(4, np.float32)}, "has more, which no word"),
        ({"bundle_emb.a.odd": np.ones((1, 4), np.float32)}, "bundle_emb.a.odd, which is in no form"),
        ({"bundle_emb.a.t5": np.ones((1, 4), np.float32)}, "has t5, which no word of Stable Diffusion has"),
    ],
)
def test_what_is_no_word_is_one_line(tmp_path, arrays, message):
    save_file(arrays, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=message) as caught:
        read_embeddings(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)


def test_no_such_file_names_the_nearest(tmp_path):
    write_embedding(tmp_path / "easynegative.safetensors", "x", ONE)
    with pytest.raises(InputError, match=r"no such file; did you mean .*easynegative\.safetensors"):
        read_embeddings(tmp_path / "easynegativ.safetensors")


def test_nothing_is_saved_that_is_not_finite(tmp_path):
    with pytest.raises(InputError, match="not finite"):
        write_embedding(tmp_path / "a.safetensors", "a", {"text_encoder": np.full((1, 4), np.inf)})
    assert not list(tmp_path.iterdir())
