# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What comes from outside: photos, words, addresses."""

import io
from pathlib import Path

import pytest
from PIL import Image

from dreambooth_jax.app.people import new_token, owner_of
from dreambooth_jax.app.queue import Queue
from dreambooth_jax.app.recipes import SHARES, recipe
from dreambooth_jax.app.requests import Desk
from dreambooth_jax.app.server import check_open
from dreambooth_jax.app.uploads import Bounds, previews, take
from dreambooth_jax.config import load_config
from dreambooth_jax.config.files import read_settings, shipped
from dreambooth_jax.errors import InputError
from dreambooth_jax.options import AppOptions

SUBJECT = sorted((Path(__file__).parents[2] / "dreambooth_jax" / "embedded" / "subject").glob("*.png"))


@pytest.fixture
def desk(tmp_path):
    return Desk(Queue(tmp_path / "jobs", most=3), tmp_path / "people", ("quickstart",))


def png(width, height):
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


BAD = {
    "nothing": b"",
    "text": b"<script>alert(1)</script>",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    "zip": b"PK\x03\x04" + bytes(100),
    "pickle": b"\x80\x04\x95" + bytes(100),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "damaged": png(64, 64)[:40],
    "large sides": png(10_000, 10_000),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_picture_is_refused_on_one_line(what, tmp_path):
    file = tmp_path / "sent.png"
    file.write_bytes(BAD[what])
    with pytest.raises(InputError, match="photo 1") as error:
        take([file], tmp_path / "kept")
    assert "\n" not in str(error.value)
    assert str(tmp_path) not in str(error.value)
    assert not (tmp_path / "kept").exists()


def test_bounds_of_number_and_bytes(tmp_path):
    for sent, bounds in ([], Bounds()), (SUBJECT, Bounds(files=2)), (SUBJECT[:1], Bounds(megabytes=0)):
        with pytest.raises(InputError):
            take(sent, tmp_path, bounds)


def test_photos_are_kept_under_names_of_our_own(tmp_path):
    odd = tmp_path / "-rf;$(id)<b>.png"
    odd.write_bytes(SUBJECT[0].read_bytes())
    place = take([odd, SUBJECT[1]], tmp_path / "kept")
    assert sorted(file.name for file in place.iterdir()) == ["photo_01.png", "photo_02.png"]
    assert [picture.shape for picture in previews(place)] == [(192, 192, 3)] * 2


ASKED = {"config": "quickstart", "noun": "alien", "identifier": "sks", "quality": 1}


@pytest.mark.parametrize(
    "changed", [{"config": "../../etc/passwd"}, {"config": "sd15"}, {"noun": " "}, {"noun": "a\0b"}, {"noun": "\ud800"}]
)
def test_trainings_that_are_refused(changed, desk):
    with pytest.raises(InputError):
        desk.train("ada", SUBJECT[:1], **ASKED | changed)
    assert desk.queue.of("ada") == []


@pytest.mark.parametrize("noun", ["run_dir=/tmp/x", "--config=/etc/passwd", "dog; model.path=/", "../../x", "<b>x</b>"])
def test_words_stay_words(noun, desk, tmp_path):
    """They are no settings, and no places."""
    job = desk.train("ada", SUBJECT[:1], **ASKED | {"noun": noun})
    config = load_config(job.words[1], job.words[2:])
    assert config.data.class_noun == noun
    assert config.model.path == "embedded"
    assert Path(config.run_dir).is_relative_to(tmp_path / "people" / "ada")


DRAWN = {"of": None, "config": "quickstart", "prompt": "a dog", "negative": "", "steps": 4, "guidance": 3.0, "seed": 0}


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": ""},
        {"prompt": "x" * 3000},
        {"prompt": "a dog <lora:../../secret:1>"},
        {"negative": "< LoRA:/etc/passwd>"},
        {"of": 1},
        {"config": "/etc/passwd"},
        {"count": 1000},
        {"steps": 10**9},
    ],
)
def test_drawings_that_are_refused(changed, desk):
    with pytest.raises(InputError):
        desk.draw("ada", **{"count": 1} | DRAWN | changed)
    assert desk.queue.of("ada") == []


def test_a_training_is_seen_by_its_owner_alone(desk):
    job = desk.train("ada", SUBJECT[:1], **ASKED)
    assert desk.runs("bob") == []
    with pytest.raises(InputError, match="no training"):
        desk.draw("bob", **DRAWN | {"of": job.number}, count=1)
    assert desk.draw("ada", **DRAWN | {"of": job.number}, count=1).words[1] == job.folder
    assert desk.again("ada", job.number).words == job.words


def test_cookies_that_are_none_of_ours_are_none():
    token = new_token()
    assert owner_of({"dreambooth_jax": token}, "a") == owner_of({"dreambooth_jax": token}, "b")
    for odd in ("", "../../x", "f" * 31, f"{token}\n"):
        assert owner_of({"dreambooth_jax": odd}, "a") == owner_of({}, "a") != owner_of({}, "b")


def test_others_have_to_log_in():
    for told in ({"host": "0.0.0.0"}, {"host": "example.org"}, {"user": "me"}, {"host": "::", "password": "x"}):
        with pytest.raises(InputError):
            check_open(AppOptions(**told))
    for told in ({}, {"host": "localhost"}, {"host": "::1"}, {"host": "0.0.0.0", "user": "me", "password": "x"}):
        check_open(AppOptions(**told))


@pytest.mark.parametrize("name", [name for name in shipped() if "sweep" not in read_settings(name)])
def test_every_place_of_the_slider_is_a_run(name):
    try:
        load_config(name)
    except InputError:
        pytest.skip("no run by itself")
    steps = [load_config(name, recipe(name, quality)).train.steps for quality in SHARES]
    assert steps == sorted(set(steps))
    assert steps[-1] == load_config(name).train.steps
