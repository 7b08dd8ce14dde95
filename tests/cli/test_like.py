# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``sample --like``: pictures made again."""

import jax
import numpy as np
import pytest
from PIL import Image

import dreambooth_jax as dbx
from dreambooth_jax.cli import main
from dreambooth_jax.prepare import batch_size
from tests.metadata.files import A1111, comfyui, png
from tests.test_pipeline import FIXTURES

MODEL = str(FIXTURES / "legacy_flax_sd15")


def pixels(path):
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Five pictures in batches of some size, of which the last is not full."""
    out = tmp_path_factory.mktemp("made")
    options = ["steps=3", "sampler=euler_a", "num_images=5", "seed=7", "negative_prompt=é, b: c", "height=16"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_size, "CPU_BATCH", 2 / jax.local_device_count())
        assert main(["sample", MODEL, "a photo of a dog, ☀", f"--out={out}", *options]) == 0
    return out


@pytest.mark.parametrize("seed", [7, 10, 11])
def test_our_pictures_are_repeated_bit_for_bit(made, tmp_path, seed):
    """The first and the second of a batch, and the last one, whose batch was not full."""
    picture = made / f"000-seed{seed}.png"
    assert main(["sample", MODEL, "--like", str(picture), f"--out={tmp_path}"]) == 0
    again = tmp_path / f"000-seed{seed}.png"
    assert [path.name for path in tmp_path.iterdir() if path.name != "grid.png"] == [again.name]
    np.testing.assert_array_equal(pixels(again), pixels(picture))
    assert Image.open(again).text == Image.open(picture).text


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["hires_scale=2", "hires_steps=2", "height=16"], marks=pytest.mark.slow),
        ["variation_of=3", "variation_strength=0.5", "noise=torch"],
        pytest.param(["image={picture}", "strength=0.6", "width=24"], marks=pytest.mark.slow),
        pytest.param(["image={picture}", "outpaint_left=8"], marks=pytest.mark.slow),
        ["prompt_syntax=plain", "profile=comfy", "schedule=karras", "guidance_rescale=0.5"],
        [f"refiner={MODEL}", "refiner_start=0.3"],
    ],
)
def test_whatever_a_picture_was_told_is_repeated(made, tmp_path, options):
    """A picture that was drawn from another one, or with a second model, beside that."""
    told = [option.format(picture=made / "000-seed7.png") for option in options]
    assert main(["sample", MODEL, "a (dog:1.2)", "steps=2", "num_images=1", "seed=4", f"--out={tmp_path}", *told]) == 0
    again = [option for option in told if option.startswith(("image", "refiner="))]
    assert main(["sample", MODEL, "--like", str(tmp_path / "000-seed4.png"), f"--out={tmp_path}", *again]) == 0
    np.testing.assert_array_equal(pixels(tmp_path / "001-seed4.png"), pixels(tmp_path / "000-seed4.png"))


def test_what_is_told_counts_before_the_picture(made, tmp_path):
    like = ["sample", MODEL, "--like", str(made / "000-seed7.png"), f"--out={tmp_path}"]
    assert main([*like, "steps=2", "num_images=2", "seed=8"]) == 0
    text = Image.open(tmp_path / "000-seed9.png").text["parameters"]
    assert text.startswith(
        "a photo of a dog, ☀\nNegative prompt: é, b: c\nSteps: 2, Sampler: Euler a, CFG scale: 7.5, Seed: 9"
    )
    assert main([*like, "another dog"]) == 0
    assert Image.open(tmp_path / "001-seed7.png").text["parameters"].startswith("another dog\n")


def test_a_picture_of_a1111_is_made_from_its_seed(tmp_path, caplog):
    text = A1111.replace("512x768", "16x16").replace("Steps: 25", "Steps: 3").replace("Clip skip: 2, ", "")
    text = text.replace("(dog:1.2)", "dog")
    picture = png(tmp_path / "a.png", {"parameters": text})
    with caplog.at_level("WARNING"):
        assert main(["sample", MODEL, "--like", str(picture), f"--out={tmp_path / 'out'}", "num_images=1"]) == 0
    said = [record.message.partition("not repeated: ")[2] for record in caplog.records]
    assert "the adapters that were added to its model, fluffy:0.8: give them with lora=FILE:WEIGHT" in said
    assert f"its model, v1-5-pruned, if {MODEL} is another one"[:60] in "; ".join(said)
    found = pixels(tmp_path / "out" / "000-seed2551426893.png")
    pipe = dbx.load_pretrained(MODEL)
    run = {"seed": 2551426893, "steps": 3, "sampler": "dpmpp_2m", "schedule": "karras", "guidance_scale": 6.5}
    run |= {"negative_prompt": "blurry, low quality", "height": 16, "width": 16}
    prompt = "a photo of a dog , sunset\non a hill"
    same = pipe([prompt], **run, profile="a1111", noise="torch")[0]
    assert np.abs(found.astype(int) - same).max() <= 1
    assert np.abs(found.astype(int) - pipe([prompt], **run)[0]).max() > 20


def test_a_seed_of_comfyui_may_have_64_bits(tmp_path):
    picture = comfyui(tmp_path / "a.png")
    small = ["height=16", "width=16", "steps=2"]
    assert main(["sample", MODEL, "--like", str(picture), f"--out={tmp_path / 'out'}", *small]) == 0
    assert (tmp_path / "out" / "000-seed156680208700286.png").exists()


def test_a_picture_that_says_nothing_is_one_line(tmp_path, capsys):
    picture = png(tmp_path / "a.png")
    assert main(["sample", MODEL, "--like", str(picture)]) == 2
    assert "does not say how it was made" in capsys.readouterr().err.splitlines()[-1]
