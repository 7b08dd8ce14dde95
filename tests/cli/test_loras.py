# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Adapters of ``sample``: ``--lora FILE:WEIGHT`` and ``<lora:name:0.8>``, and what pictures say of them."""

import hashlib
import json
import logging

import numpy as np
import pytest
from PIL import Image

from dreambooth_jax.cli import main
from dreambooth_jax.cli.loras import asked_of, with_loras, without_tags
from dreambooth_jax.errors import InputError
from dreambooth_jax.metadata.infotext import read_infotext
from dreambooth_jax.metadata.remake import ADAPTERS
from dreambooth_jax.options import SampleOptions
from dreambooth_jax.weights.adapters import Module, write_adapter
from dreambooth_jax.weights.adapters.asked import Asked, with_adapters
from tests.runs import MODEL

OPTIONS = ("steps=2", "height=16", "width=16", "num_images=1")
LAYERS = {
    "unet": "mid_block/attentions_0/transformer_blocks_0/attn2/to_q",
    "text_encoder": "text_model/encoder/layers_0/self_attn/q_proj",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The folder of a file of an adapter, in which one stands."""
    from dreambooth_jax import load_pretrained
    from dreambooth_jax.trees import flatten

    params, r = load_pretrained(MODEL).params, np.random.default_rng(0)
    networks = {}
    for network, path in LAYERS.items():
        inputs, outputs = flatten(params[network])[f"{path}/kernel"].shape
        down, up = (3 * r.normal(size=shape).astype(np.float32) for shape in ((inputs, 2), (2, outputs)))
        tensors = {"lora_down": down, "lora_up": up, "alpha": np.float32(2)}
        networks[network] = {path: Module("lora", tensors)}
    write_adapter(tmp_path / "dog.safetensors", networks)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sample(out, *words):
    return main(["sample", str(MODEL), *words, *OPTIONS, f"out={out}"])


def picture(folder):
    return np.asarray(Image.open(folder / "000-seed0.png"))


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("dog.safetensors", ("dog.safetensors", 1.0, 1.0)),
        ("dog.safetensors:0.8", ("dog.safetensors", 0.8, 0.8)),
        ("dog.safetensors:0.5:-1", ("dog.safetensors", 0.5, -1.0)),
        ("C:/dog.safetensors", ("C:/dog.safetensors", 1.0, 1.0)),
        ("a:b.safetensors:1e-1", ("a:b.safetensors", 0.1, 0.1)),
    ],
)
def test_weights_of_text_encoder_and_denoiser(text, read):
    assert Asked.read(text) == read


@pytest.mark.parametrize("behind", [":1:2:3", ":1:2:3:4", ":much", ":1:much"])
@pytest.mark.parametrize("there", [True, False])
def test_what_is_no_weight_behind_a_file_is_told_how_weights_are_written(tmp_path, behind, there):
    file = tmp_path / "dog.safetensors"
    if there:
        file.write_bytes(b"")
    elif "much" in behind:
        return  # it may be the name of a file
    with pytest.raises(InputError, match=r"say FILE or FILE:WEIGHT, such as .*, or FILE:TEXT_ENCODER:UNET$"):
        Asked.read(f"{file}{behind}")
    if there and behind == ":much":
        file.rename(f"{file}{behind}")
        assert Asked.read(f"{file}{behind}:0.5") == (f"{file}{behind}", 0.5, 0.5), "a file that is called so"


@pytest.mark.parametrize("text", [":0.8", "dog:nan", "dog:0.8:inf", "0.8:0.8:"])
def test_what_is_no_weight_is_one_line(text, here):
    with pytest.raises(InputError):
        with_adapters({}, [text])


def test_tags_are_taken_out_of_prompts_and_name_files(here):
    (here / "loras").mkdir()
    (here / "loras" / "old.pt").touch()
    prompt = "a sks dog <lora:dog:0.8>, on the grass<lyco:old:te=0.5:unet=2> (sharp:1.2)"
    assert without_tags(prompt) == "a sks dog , on the grass (sharp:1.2)"
    assert asked_of(prompt) == ["dog.safetensors:0.8:0.8", "loras/old.pt:0.5:2"]
    assert asked_of("<lora:dog.safetensors>") == ["dog.safetensors:1:1"]
    assert asked_of("<lora:dog:0.5:0.75>") == ["dog.safetensors:0.5:0.75"]
    assert without_tags("a  dog < cat > <b>") == "a  dog < cat > <b>", "what has no tags stays as it is"


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        (["<lora:cat:1>"], "no cat.safetensors here or in loras/"),
        (["<lora:>"], r"no \.\.\..safetensors"),
        (["<lora:dog:much>"], "say <lora:name:0.8>"),
        (["<lora:dog:1:1:dyn=4>"], "say <lora:name:0.8>"),
        (["a {<lora:dog:1> dog|cat}"], "not drawn by lot"),
    ],
)
def test_what_cannot_be_meant_is_one_line(prompts, said, here):
    with pytest.raises(InputError, match=said) as error:
        with_loras(SampleOptions(source="embedded"), prompts, {})
    assert "\n" not in str(error.value)


def test_what_all_prompts_ask_for_is_the_models_and_else_each_has_its_own(here):
    options = SampleOptions(source="embedded", lora=("dog.safetensors",))
    same, bare, queued = with_loras(options, ["a <lora:dog:2>"] * 2, {here: ["b <lora:dog:2>"]})
    assert same.lora == ("dog.safetensors", "dog.safetensors:2:2")
    assert (bare, queued) == ((["a", "a"], ()), {here: (["b"], ())})
    other, bare, queued = with_loras(options, ["a <lora:dog:2>", "c"], {here: ["b"]})
    assert other.lora == options.lora
    assert bare == (["a", "c"], (("dog.safetensors:2:2",), ()))
    assert queued == {here: (["b"], ((),))}


@pytest.mark.slow
def test_prompts_with_adapters_of_their_own_are_drawn_as_each_alone(here, capsys):
    """In their order, whatever the order of drawing; of a queue too; and a file for another model is told at first."""
    prompts = ["a sks dog <lora:dog:0.5>", "a sks dog", "a dog <lora:dog:-1>", "a cat <lora:dog:0.5>"]
    assert sample(here / "all", *prompts) == 0
    for row, prompt in enumerate(prompts):
        assert sample(here / str(row), prompt) == 0
        drawn, alone = here / "all" / f"{row:03d}-seed0.png", here / str(row) / "000-seed0.png"
        np.testing.assert_array_equal(np.asarray(Image.open(drawn)), np.asarray(Image.open(alone)))
        said = [json.loads(Image.open(path).text["dreambooth_jax"]) for path in (drawn, alone)]
        assert said[0] == said[1]
    assert (picture(here / "0") != picture(here / "1")).any()
    assert json.loads(Image.open(here / "all" / "grid.png").text["dreambooth_jax"])["grid"] == [
        *("a sks dog <lora:dog:0.5>", "a sks dog", "a dog <lora:dog:-1>", "a cat <lora:dog:0.5>")
    ]
    (here / "queue.txt").write_text("\n".join(prompts))
    for _ in range(2):  # the second time all is there
        assert main(["sample", str(MODEL), "--queue=queue.txt", *OPTIONS, f"out={here / 'queued'}"]) == 0
    for row in range(4):
        found, expected = (here / place / f"{row:03d}-seed0.png" for place in ("queued/queue", "all"))
        assert found.read_bytes() == expected.read_bytes()
    wide = {"lora_down": np.ones((3, 1), np.float32), "lora_up": np.ones((1, 3), np.float32)}
    write_adapter(here / "other.safetensors", {"unet": {LAYERS["unet"]: Module("lora", wide)}})
    assert sample(here / "never", "a cat", "a dog <lora:other:1>") == 2
    assert "does not fit this model" in capsys.readouterr().err
    assert not list((here / "never").glob("*.png"))


@pytest.mark.slow
def test_a_tag_is_the_option_and_pictures_say_so(here, caplog):
    names = ("plain", "option", "tag", "off", "again", "without")
    plain, option, tag, off, again, without = (here / name for name in names)
    assert sample(plain, "a sks dog") == 0
    assert sample(option, "a sks dog", "--lora=dog.safetensors:0.5") == 0
    assert sample(tag, "a sks dog <lora:dog:0.5>") == 0
    assert sample(off, "a sks dog <lora:dog:0>") == 0
    np.testing.assert_array_equal(picture(tag), picture(option))
    np.testing.assert_array_equal(picture(off), picture(plain))
    assert (picture(option) != picture(plain)).any()
    texts = Image.open(tag / "000-seed0.png").text
    content = (here / "dog.safetensors").read_bytes()
    digits = hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()[:12]
    read = read_infotext(texts["parameters"])
    assert read.pairs["Lora hashes"] == f"dog: {digits}"
    assert read.prompt == "a sks dog <lora:dog:0.5>"
    assert json.loads(texts["dreambooth_jax"])["adapters"] == {"dog:0.5": digits}
    with caplog.at_level(logging.WARNING):
        assert sample(again, f"--like={tag / '000-seed0.png'}", "--lora=dog.safetensors:0.5") == 0
        assert ADAPTERS not in caplog.text
        assert sample(without, f"--like={tag / '000-seed0.png'}") == 0
    assert f"{ADAPTERS}, dog:0.5: give them with lora=FILE:WEIGHT" in caplog.text
    np.testing.assert_array_equal(picture(again), picture(tag))
    np.testing.assert_array_equal(picture(without), picture(plain))


def test_plain_prompts_have_no_tags(here, monkeypatch):
    """Their brackets are drawn."""
    asked = []
    monkeypatch.setattr("dreambooth_jax.cli.sample.with_loras", lambda *given: asked.append(given))
    assert sample(here, "a <lora:none:1> dog", "prompt_syntax=plain", "steps=1") == 0
    assert not asked
