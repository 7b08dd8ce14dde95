# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What comes from outside: photos, words, addresses."""

import io
from pathlib import Path

import pytest
from PIL import Image

from dreambooth_jax.app.people import new_token, owner_of
from dreambooth_jax.app.progress import placeless
from dreambooth_jax.app.queue import Queue
from dreambooth_jax.app.recipes import SHARES, recipe
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.requests.train import again, train
from dreambooth_jax.app.uploads import Bounds, keep, read_all
from dreambooth_jax.checks import check_config
from dreambooth_jax.config import load_config
from dreambooth_jax.config.files import shipped
from dreambooth_jax.errors import InputError

MANY_SUBJECTS = ("two_subjects",)
PHOTOS = ("data.instance_images=photos", "data.class_noun=dog")
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
        read_all([file])
    assert "\n" not in str(error.value)
    assert str(tmp_path) not in str(error.value)


def test_bounds_of_number_and_bytes():
    for sent, bounds in ([], Bounds()), (SUBJECT, Bounds(files=2)), (SUBJECT[:1], Bounds(megabytes=0)):
        with pytest.raises(InputError):
            read_all(sent, bounds)


def test_photos_are_kept_under_names_of_our_own(tmp_path):
    odd = tmp_path / "-rf;$(id)<b>.png"
    odd.write_bytes(SUBJECT[0].read_bytes())
    place = keep(read_all([odd, SUBJECT[1]]), tmp_path / "kept")
    assert sorted(file.name for file in place.iterdir()) == ["photo_01.png", "photo_02.png"]


def test_captions_go_with_their_photos(desk, tmp_path):
    """Of that name, whatever the order; they are the run's."""
    text = tmp_path / f"{SUBJECT[1].stem}.txt"
    text.write_text("a {identifier} {class_noun}\non the grass")
    job = train(desk, "ada", [text, *SUBJECT[:2]], **ASKED)
    (folder,) = (word.partition("=")[2] for word in job.words if word.startswith("data.instance_images="))
    assert [file.name for file in sorted(Path(folder).glob("*.txt"))] == ["photo_02.txt"]
    assert (Path(folder) / "photo_02.txt").read_text() == "a {identifier} {class_noun} on the grass"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("stranger", b"a dog"),
        (SUBJECT[0].stem, b"\xff\xfe\x00"),
        (SUBJECT[0].stem, b"a" * 3000),
        (SUBJECT[0].stem, b"a {noun}"),
        (SUBJECT[0].stem, b"a <lora:x:1> dog"),
    ],
    ids=["of no photo", "no text", "long", "field", "file"],
)
def test_what_is_no_caption_is_refused(desk, tmp_path, name, content):
    text = tmp_path / f"{name}.txt"
    text.write_bytes(content)
    with pytest.raises(InputError, match="^caption 1") as error:
        train(desk, "ada", [SUBJECT[0], text], **ASKED)
    assert str(tmp_path) not in str(error.value)
    assert not desk.of("ada", "train")


ASKED = {"config": "quickstart", "noun": "alien", "identifier": "sks", "quality": 1}


@pytest.mark.parametrize(
    "changed",
    [
        {"config": "../../etc/passwd"},
        {"config": "sd15"},
        {"noun": " "},
        {"noun": "a\0b"},
        {"noun": "\ud800"},
        {"noun": "<lora:/etc/passwd:1>"},
        {"identifier": "< LYCO:x>"},
        {"quality": 9},
    ],
)
def test_trainings_that_are_refused(changed, desk):
    with pytest.raises(InputError):
        train(desk, "ada", SUBJECT[:1], **ASKED | changed)
    assert desk.queue.of("ada") == []


@pytest.mark.parametrize(
    "noun", ["run_dir=/tmp/x", "--config=/etc/passwd", "dog; model.path=/", "../../x", "<b>x</b>", "null", "[a]", "#x"]
)
def test_words_stay_words(noun, desk, tmp_path):
    """They are no settings, and no places."""
    job = train(desk, "ada", SUBJECT[:1], **ASKED | {"noun": noun})
    config = load_config(job.words[1], job.words[2:])
    assert config.data.class_noun == noun
    assert config.model.path == "embedded"
    assert Path(config.run_dir).is_relative_to(tmp_path / "people" / "ada")


def test_a_training_is_seen_by_its_owner_alone(desk):
    job = train(desk, "ada", SUBJECT[:1], **ASKED)
    assert desk.of("bob", "train") == []
    with pytest.raises(InputError, match="already"):
        again(desk, "ada", job.number)
    desk.queue.stop("ada", job.number)
    assert again(desk, "ada", job.number).words == job.words


def test_messages_name_no_folder_of_the_server():
    assert placeless("/srv/app/people/ab/runs/cd has no checkpoint") == "cd has no checkpoint"
    assert placeless("'/root/.cache/x y/z.png' is gone") == "'x y/z.png' is gone"
    for text in ("https://huggingface.co/a/b is not there", "5/10 [00:01<00:02, 3.1it/s]", "a dog/cat and/or"):
        assert placeless(text) == text


def test_cookies_that_are_none_of_ours_are_none():
    token = new_token()
    assert owner_of({"dreambooth_jax": token}, "a") == owner_of({"dreambooth_jax": token}, "b")
    for odd in ("", "../../x", "f" * 31, f"{token}\n"):
        assert owner_of({"dreambooth_jax": odd}, "a") == owner_of({}, "a") != owner_of({}, "b")
    assert owner_of({}, None) != owner_of({}, None)


@pytest.mark.parametrize("name", [name for name in shipped() if name not in MANY_SUBJECTS])
def test_every_place_of_the_slider_is_a_run(name, tmp_path):
    Desk(Queue(tmp_path / "jobs", most=1), tmp_path, (name,))  # raises if it cannot be trained
    settings = load_config(name)
    places = [dict(word.split("=") for word in recipe(settings, quality)) for quality in SHARES]
    whole_of = {"train.steps": settings.train.steps, "prior.num_images": settings.prior.num_images}
    for key, whole in (whole_of | {"samples.num_images": settings.samples.num_images}).items():
        values = [int(place[key]) for place in places]
        assert values == sorted(values)
        assert values[-1] == whole
    check_config(load_config(name, [*PHOTOS, *recipe(settings, 1)]))


def test_what_no_photos_of_one_subject_train_is_not_offered(tmp_path):
    for name in (*MANY_SUBJECTS, "no_such"):
        with pytest.raises(InputError, match=f"configs: {name}"):
            Desk(Queue(tmp_path / "jobs", most=1), tmp_path, (name,))
