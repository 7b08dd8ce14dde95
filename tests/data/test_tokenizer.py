# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Ids of prompts: fixed length, the right padding, and honesty about what is cut."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from dreambooth_jax.data.tokenizer import load_tokenizer
from dreambooth_jax.errors import InputError
from tests.weights.folders import FIXTURES

KINDS = {"legacy_flax_sd15": 552, "legacy_flax_sd21": 0}  # fixture -> id that pads
BOS, EOS = 551, 552


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def tokenizer(kind):
    return load_tokenizer(FIXTURES / kind / "tokenizer")


@pytest.fixture
def copy(kind, tmp_path):
    """The fixture's files, to be tampered with."""
    return shutil.copytree(FIXTURES / kind / "tokenizer", tmp_path / "tokenizer")


def test_ids_are_those_of_the_library_that_made_the_reference(kind, tokenizer):
    reference = np.load(FIXTURES / kind / "reference.npz")
    np.testing.assert_array_equal(tokenizer([str(prompt) for prompt in reference["prompts"]]), reference["input_ids"])
    np.testing.assert_array_equal(tokenizer(["", ""]), reference["uncond_ids"])


def test_layout_of_a_row(kind, tokenizer):
    ids = tokenizer(["a photo of sks dog", ""])
    assert ids.shape == (2, 77)
    assert ids.dtype == np.int32
    vocabulary = json.loads((tokenizer.folder / "vocab.json").read_text())
    words = [vocabulary[f"{word}</w>"] for word in ("a", "photo", "of", "sks", "dog")]
    for row, inside in zip(ids, (words, []), strict=True):
        assert row[0] == BOS
        assert row[1 : 1 + len(inside)].tolist() == inside
        assert row[1 + len(inside)] == EOS
        assert set(row[2 + len(inside) :].tolist()) == {KINDS[kind]}


def test_an_exclamation_mark_is_text_if_so_told(kind, tokenizer):
    """Where ``!`` pads, transformers takes it for padding; open_clip and ComfyUI read ``!</w>``, as CLIP's own does."""
    vocabulary = json.loads((tokenizer.folder / "vocab.json").read_text())
    as_text = dataclasses.replace(tokenizer, pad_is_text=True)
    for one, read in ((tokenizer, KINDS[kind] and vocabulary["!</w>"]), (as_text, vocabulary["!</w>"])):
        assert one.words(["dog!"])[0] == [vocabulary["dog</w>"], read]
        assert one(["dog!"])[0, :4].tolist() == [BOS, vocabulary["dog</w>"], read, EOS]
        assert set(one(["dog!"])[0, 4:].tolist()) == {KINDS[kind]}


@pytest.mark.parametrize("prompt", ["a 🐶 dog", "🐶", "a 👩\u200d👧 dog", "dog\u200b", "ﬁ", "𝒹𝑜𝑔"])
def test_an_emoji_however_it_is_spelt(tokenizer, prompt):
    """Some escapes, JSON's among them, spell it as two surrogates."""
    units = np.frombuffer(prompt.encode("utf-16-le"), np.uint16)
    spelt = "".join(map(chr, units.tolist()))
    np.testing.assert_array_equal(tokenizer([spelt]), tokenizer([prompt]))
    assert tokenizer.pieces(spelt) == tokenizer.pieces(prompt)
    assert tokenizer.lost(" ".join(["dog"] * 75 + [spelt])) == prompt
    assert len(set(tokenizer([prompt])[0].tolist())) > 3


def test_half_an_emoji_is_named(tokenizer):
    with pytest.raises(InputError, match=r"'a \\ud83d dog' has half a character"):
        tokenizer(["a dog", "a \ud83d dog"])


def test_no_prompts(tokenizer):
    assert tokenizer([]).shape == (0, 77)


def test_case_spaces_and_line_breaks_do_not_matter(tokenizer):
    np.testing.assert_array_equal(tokenizer(["  A Photo\n of\tDOG "]), tokenizer(["a photo of dog"]))


def test_a_long_prompt_is_cut_and_the_warning_shows_what_it_loses(tokenizer):
    prompt = " ".join(["dog"] * 75 + ["Photo", "of a  Dog"])
    with pytest.warns(UserWarning, match="its end: 'Photo of a  Dog'"):
        ids = tokenizer([prompt])
    assert ids.shape == (1, 77)
    assert ids[0, -1] == EOS
    np.testing.assert_array_equal(ids, tokenizer([" ".join(["dog"] * 75)]))


def test_a_prompt_that_just_fits_loses_nothing(tokenizer):
    assert tokenizer.lost(" ".join(["dog"] * 75)) == ""
    assert tokenizer.lost(" ".join(["dog"] * 76)) == "dog"


def test_another_length(kind):
    short = load_tokenizer(FIXTURES / kind / "tokenizer", max_length=5)
    assert short(["a dog"]).shape == (1, 5)
    assert short.lost("a dog photo of a cat") == "of a cat"


def test_pieces_spell_the_text(tokenizer):
    assert tokenizer.pieces("sks") == ["sks</w>"]
    assert "".join(tokenizer.pieces("zwxq dog")).split("</w>")[:-1] == ["zwxq", "dog"]


def test_report(tokenizer):
    assert "'sks' is 1 token: sks</w>" in tokenizer.report("sks")
    pieces = tokenizer.pieces("zwxq")
    assert len(pieces) > 1
    assert f"{len(pieces)} tokens: {' '.join(pieces)}" in tokenizer.report("zwxq")


@pytest.mark.parametrize("nothing", ["", "  \n\t ", "<|endoftext|>"])
def test_an_identifier_that_is_nothing(tokenizer, nothing):
    with pytest.raises(InputError, match="identifier"):
        tokenizer.report(nothing)


def test_tokenizer_json_gives_the_same_ids(tokenizer, tmp_path):
    prompts = ["a photo of sks dog!", "", "Ünï 🐶  it's 42"]
    expected = tokenizer(prompts)
    tokenizer.backend.save_pretrained(tmp_path)
    assert not (tmp_path / "vocab.json").exists()
    np.testing.assert_array_equal(load_tokenizer(tmp_path)(prompts), expected)


def test_without_tokenizer_config_the_special_tokens_map_says_what_pads(kind, copy):
    (copy / "tokenizer_config.json").unlink()
    assert load_tokenizer(copy)(["a dog"])[0, -1] == KINDS[kind]


def test_an_old_config_is_overruled_by_the_special_tokens_map(kind, copy):
    """Stable Diffusion 2's own repositories say <|endoftext|> in the one file and ! in the other."""
    config = json.loads((copy / "tokenizer_config.json").read_text())
    del config["added_tokens_decoder"]
    (copy / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": "<|endoftext|>"}))
    assert load_tokenizer(copy)(["a dog"])[0, -1] == KINDS[kind]


def test_a_bare_vocabulary_pads_with_the_end(copy):
    (copy / "tokenizer_config.json").unlink()
    (copy / "special_tokens_map.json").unlink()
    bare = load_tokenizer(copy)
    assert bare(["a dog"]).shape == (1, 77)
    assert bare(["a dog"])[0, -1] == EOS


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(InputError, match=name):
        load_tokenizer(copy)


def test_broken_files(copy):
    (copy / "vocab.json").write_text('{"a": ')
    with pytest.raises(InputError, match="broken"):
        load_tokenizer(copy)


def test_merges_that_end_too_early(copy):
    """Prompts would fall into letters, and pictures show something else."""
    lines = (copy / "merges.txt").read_text().splitlines()
    for keep in (1, len(lines) // 2):
        (copy / "merges.txt").write_text("\n".join(lines[:keep]) + "\n")
        with pytest.raises(InputError, match="merges.txt lacks"):
            load_tokenizer(copy)


def test_a_length_that_is_none(copy):
    config = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": "long"}))
    with pytest.raises(InputError, match="broken"):
        load_tokenizer(copy)


def test_neither_torch_nor_advice_to_install_it():
    script = (
        "import importlib.util as u, sys; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest)\n"
        "from pathlib import Path; from dreambooth_jax.data.tokenizer import load_tokenizer\n"
        f"load_tokenizer(Path({str(FIXTURES / 'legacy_flax_sd15' / 'tokenizer')!r}))\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
