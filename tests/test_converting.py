# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Files of adapters and of new words become others: what they say of themselves is kept, and nothing is ignored."""

import numpy as np
import pytest
from safetensors import safe_open

from dreambooth_jax.cli import main
from dreambooth_jax.weights.adapters import Module, read_adapter, write_adapter
from dreambooth_jax.weights.embeddings import bundled_leaves, read_embeddings, write_embedding
from tests.runs import MODEL
from tests.weights.adapters.trees import lora_tensors

QUERY = "down_blocks_0/attentions_0/transformer_blocks_0/attn1/to_q"
KEY_OF_TEXT = "down_blocks_0/attentions_0/transformer_blocks_0/attn2/to_k"


def texts(file):
    with safe_open(file, "np") as opened:
        return opened.metadata()


def export(*words):
    return main(["export", *map(str, words)])


def lora(inputs, outputs):
    return Module("lora", lora_tensors((inputs, outputs), rank=4, alpha=2.0, r=np.random.default_rng(0)))


@pytest.fixture
def peft(tmp_path):
    """Of Stable Diffusion 1, by the width of its texts; it says no more than who made it."""
    file = tmp_path / "theirs.safetensors"
    modules = {"unet": {QUERY: lora(320, 320), KEY_OF_TEXT: lora(768, 320)}}
    write_adapter(file, modules, dialect="peft", metadata={"author": "somebody"})
    return file


@pytest.fixture
def word(tmp_path):
    """Of two vectors of Stable Diffusion 1, called as the file is."""
    file = tmp_path / "word.safetensors"
    vectors = {"text_encoder": np.ones((2, 768), np.float32)}
    write_embedding(file, "<w>", vectors, form="a1111", metadata={"note": "kept", "modelspec.title": "Mine"})
    return file


def test_an_adapter_says_what_it_is_for(peft, tmp_path):
    """As Forge reads it; and the same file again is made of that one."""
    made, again = tmp_path / "ours.safetensors", tmp_path / "again.safetensors"
    assert export(peft, made) == 0
    said = texts(made)
    assert said["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert (said["ss_base_model_version"], said["ss_v2"]) == ("sd_v1", "False")
    assert (said["ss_network_module"], said["ss_network_dim"], said["ss_network_alpha"]) == ("networks.lora", "4", "2")
    assert said["author"] == "somebody"
    assert len(said["sshs_model_hash"]) == 64
    assert export(made, again) == 0
    assert made.read_bytes() == again.read_bytes()


def test_a_word_keeps_what_it_says(word, tmp_path):
    made = tmp_path / "made.safetensors"
    assert export(word, made, "format=peft") == 0
    (one,) = read_embeddings(made)
    np.testing.assert_array_equal(one.parts[""], np.ones((2, 768)))
    said = texts(made)
    assert (said["note"], said["modelspec.title"]) == ("kept", "Mine")
    assert said["modelspec.architecture"] == "stable-diffusion-v1/textual-inversion"
    assert said["modelspec.trigger_phrase"] == "word"


@pytest.mark.parametrize(
    ("source", "words", "message"),
    [
        ("word", ["rank=16"], "rank = 16 means nothing for {file}, which is a file of new words: leave it out"),
        ("word", ["dtype=float16"], "dtype = float16 means nothing for"),
        ("word", ["lora=a.safetensors"], "lora = a.safetensors means nothing for"),
        ("word", ["format=ldm"], "format = ldm is for whole models, {file} holds new words"),
        ("word", ["format=flax"], "format = flax is for whole models, {file} holds new words"),
        ("peft", ["step=4"], "step = 4 means nothing for {file}, which is an adapter: leave it out"),
        ("peft", ["ema=true"], "ema = True means nothing for"),
        ("peft", ["vae=other"], "vae = other means nothing for"),
        ("peft", ["unet=other"], "unet = other means nothing for"),
    ],
)
def test_what_means_nothing_is_refused(request, tmp_path, capsys, source, words, message):
    file = request.getfixturevalue(source)
    assert export(file, tmp_path / "out.safetensors", *words) == 2
    assert message.format(file=file) in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


def test_a_word_is_a_file(word, tmp_path, capsys):
    assert export(word, tmp_path / "folder") == 2
    assert "a word is one file, whose name ends in .safetensors" in capsys.readouterr().err
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("bundle", [False, True])
def test_words_stay_with_the_nearest_lora(tmp_path, bundle):
    """In its file, or in one beside it."""
    modules = {"unet": {QUERY: lora(32, 32)}}
    file, made = tmp_path / "theirs.safetensors", tmp_path / "made.safetensors"
    write_adapter(file, modules, words=bundled_leaves("sks", {"text_encoder": np.ones((1, 32), np.float32)}))
    assert export(MODEL, made, "rank=2", f"lora={file}", f"bundle={str(bundle).lower()}") == 0
    beside = [path for path in tmp_path.iterdir() if path not in (file, made)]
    within = {name.split(".")[1] for name in read_adapter(made).embeddings}
    assert within == ({"sks"} if bundle else set())
    assert len(beside) == (0 if bundle else 1)
    assert bundle or [one.word for one in read_embeddings(*beside)] == ["sks"]
