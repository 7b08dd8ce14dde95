# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``sample --control``: what its texts say, that it may be repeated, and a whole call."""

import json

import numpy as np
import pytest
from PIL import Image

from dreambooth_jax.cli import main
from dreambooth_jax.cli.controls import Told, read_control, write_control
from dreambooth_jax.cli.parsing import read_call
from dreambooth_jax.cli.sample import SAMPLE
from dreambooth_jax.cli.words import quoted_list
from dreambooth_jax.data.control_maps import MAPS, canny
from dreambooth_jax.errors import InputError
from dreambooth_jax.metadata.ours import KEYWORD
from tests import torch_models
from tests.runs import MODEL


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("net:a.png", ("net", "a.png", None, False, 1.0, 0.0, 1.0)),
        ("canny:org/net:a.png:0.8", ("org/net", "a.png", "canny", False, 0.8, 0.0, 1.0)),
        ("guess:scribble:/nets/x:/home/a.png:1:0:.6", ("/nets/x", "/home/a.png", "scribble", True, 1.0, 0.0, 0.6)),
        (r"depth:C:\nets\x:D:\a.png:2:0.5", (r"C:\nets\x", r"D:\a.png", "depth", False, 2.0, 0.5, 1.0)),
        ("./canny:a.png", ("./canny", "a.png", None, False, 1.0, 0.0, 1.0)),
    ],
)
def test_what_a_text_says(text, expected):
    assert read_control(text, tuple(MAPS)) == expected


@pytest.mark.parametrize("text", ["", "net", "canny:net", "net:", ":a.png", "canny:depth:net:a.png", "a:b:c:d:e"])
def test_another_form_is_refused_with_the_right_one(text):
    with pytest.raises(InputError, match=r"must be \[MAP:\].*NETWORK:PICTURE.*canny, scribble, depth"):
        read_control(text, tuple(MAPS))


@pytest.mark.parametrize(
    "told",
    [
        Told("net", "a.png", None, False, 1.0, 0.0, 1.0),
        Told("org/net", "/a b/é;c.png", "canny", True, 1 / 3, 1e-7, 0.1 + 0.2),
        Told("./depth", "guess", "scribble", False, -1.5, 0.0, 0.6),
    ],
)
def test_what_is_written_is_read(told):
    text = write_control(told, tuple(MAPS))
    assert read_control(text, tuple(MAPS)) == told
    words = ["model", "a dog", f"control={quoted_list([text, text])}"]
    assert read_call(SAMPLE, words).settings.control == (text, text)


@pytest.mark.parametrize(
    ("network", "picture"), [("a:b", "c"), ("a", "b:0.5"), ("canny", "a"), ("guess", "a"), ("", "a")]
)
def test_what_no_text_says_is_not_written(network, picture):
    with pytest.raises(InputError, match="no colon"):
        write_control(Told(network, picture, None, False, 1.0, 0.0, 1.0), tuple(MAPS))


def test_the_option_may_be_repeated():
    words = ["model", "a dog", "--control", "a:b.png", "steps=3", "control=c:d.png:2", "--control=e:f.png"]
    call = read_call(SAMPLE, words)
    assert call.settings.control == ("a:b.png", "c:d.png:2", "e:f.png")
    assert call.settings.steps == 3
    assert read_call(SAMPLE, ["model", "a dog", "control=a:b.png; c:d.png"]).settings.control == ("a:b.png", "c:d.png")


@pytest.mark.parity
@pytest.mark.slow
def test_a_picture_along_edges(tmp_path):
    """The network sees the map of the photo, resized to what is drawn."""
    pytest.importorskip("diffusers")
    from dreambooth_jax import Control, load_control, load_pretrained

    net = torch_models.build_controlnet("sd15", conditioning_embedding_out_channels=(8, 16))
    net.save_pretrained(tmp_path / "net")
    photo = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    options = [f"--control=canny:{tmp_path / 'net'}:{tmp_path / 'photo.png'}:0.5:0:0.9", f"out={tmp_path / 'out'}"]
    assert main(["sample", str(MODEL), "a dog", *options, "steps=2", "num_images=1"]) == 0
    found = Image.open(tmp_path / "out" / "000-seed0.png")
    pipe = load_pretrained(MODEL)
    control = Control(load_control(tmp_path / "net", pipe), canny(photo), scale=0.5, end=0.9)
    np.testing.assert_array_equal(np.asarray(found), pipe("a dog", control=control, steps=2)[0])
    assert "0.9" in str(json.loads(found.text[KEYWORD])["control"])
    lowered = pipe.lower(1, control=control, steps=2, height=16, width=16)
    assert lowered.as_text() != pipe.lower(1, steps=2, height=16, width=16).as_text()
