# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is told of photos and words before a training, and of one that runs."""

import io

import numpy as np
import pytest
from PIL import Image
from tqdm import tqdm

from dreambooth_jax.app.bars import bar_of
from dreambooth_jax.app.beside import place_of, spread
from dreambooth_jax.app.progress import losses, said
from dreambooth_jax.app.queue import Queue
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.requests.photos import look_over
from dreambooth_jax.app.requests.train import again, length, newest_of, stop, train
from dreambooth_jax.app.requests.words import tokens
from dreambooth_jax.app.uploads import PREVIEW
from dreambooth_jax.config import load_config
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline.load import EMBEDDED

pytest.importorskip("gradio")
from dreambooth_jax.app.tabs import attempt

SUBJECT = sorted((EMBEDDED / "subject").glob("*.png"))
ASKED = {"config": "quickstart", "noun": "alien", "identifier": "sks", "quality": 1}


@pytest.fixture
def desk(tmp_path):
    return Desk(Queue(tmp_path / "jobs", most=9), tmp_path / "people", ("quickstart",))


def saved(picture, file, **options):
    Image.fromarray(picture).save(file, **options)
    return file


def noise(seed, height=96, width=96):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_photos_are_shown_upright_and_cut_as_training_cuts_them(desk, tmp_path):
    """The photo of a camera that was held upright lies on its side, and says so: both are the same to training."""
    tall = np.repeat(np.repeat(noise(0, 12, 8), 16, 0), 16, 1)
    exif = Image.Exif()
    exif[0x0112] = 6  # the picture has to be turned by 90 degrees to the right
    turned = saved(np.rot90(tall).copy(), tmp_path / "turned.png", exif=exif)
    a, b = look_over(desk, [turned, saved(tall, tmp_path / "a.png")], config="quickstart").pictures
    assert a.shape == b.shape == (PREVIEW, PREVIEW, 3)
    assert np.array_equal(a, b)
    (middle,) = look_over(desk, [saved(tall[32:160], tmp_path / "b.png")], config="quickstart").pictures
    assert np.array_equal(middle[8:-8], a[8:-8])  # resampling looks a little beyond the edges


def test_what_the_doctor_would_say_of_photos_is_said_at_once(desk, tmp_path):
    files = [saved(noise(seed), tmp_path / f"{seed}.png") for seed in range(3)]
    again = saved(noise(0), tmp_path / "again.png", compress_level=0)
    small = saved(noise(5, 24, 24), tmp_path / "small.png")
    (twins, *_) = look_over(desk, [*files, again], config="quickstart").doubts
    assert "photo 1 and photo 4" in twins
    assert "instance_images" not in twins
    doubts = look_over(desk, [*files, small], config="quickstart").doubts
    assert any("photo 4 (24x24)" in line for line in doubts)
    assert not any("nearly the same" in line for line in doubts)
    assert any("all alike" in line for line in look_over(desk, [again] * 3, config="quickstart").doubts)


def test_bad_photos_and_models_that_are_not_offered_are_refused(desk, tmp_path):
    (tmp_path / "x.png").write_text("x")
    for sent, config in (([tmp_path / "x.png"], "quickstart"), (SUBJECT, "/etc/passwd"), ([], "quickstart")):
        with pytest.raises(InputError):
            look_over(desk, sent, config=config)
    with pytest.raises(InputError):
        length(desk, config="/etc/passwd", quality=1)
    with pytest.raises(InputError):
        tokens(desk, config="/etc/passwd", noun="dog", identifier="sks")


def test_tokens_are_those_that_the_training_reports(desk):
    from dreambooth_jax.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(EMBEDDED / "tokenizer")
    for word in ("sks", "alien", "supercalifragilistic"):
        said = tokens(desk, config="quickstart", noun="dog", identifier=word).splitlines()[1]
        assert said.split("read as ")[1].split(" + ") == [one.removesuffix("</w>") for one in tokenizer.pieces(word)]
    assert "harder to bind" in tokens(desk, config="quickstart", noun="", identifier="supercalifragilistic")
    with pytest.raises(InputError):
        tokens(desk, config="quickstart", noun="<lora:x:1>", identifier="sks")


def test_steps_are_those_that_are_trained(desk):
    for quality in (1, 2, 3):
        words = train(desk, "ada", SUBJECT[:1], **ASKED | {"quality": quality}).words
        assert length(desk, config="quickstart", quality=quality) == load_config(words[1], words[2:]).train.steps


@pytest.mark.parametrize("changed", [{"noun": ""}, {"noun": "x" * 3000}, {"identifier": "<lora:x>"}, {"quality": 7}])
def test_errors_stand_beside_the_field_that_caused_them(changed, desk):
    from dreambooth_jax.app.tabs.train_form import FIELDS

    with pytest.raises(InputError) as error:
        train(desk, "ada", SUBJECT[:1], **ASKED | changed)
    assert place_of(str(error.value), FIELDS) == next(iter(changed))
    for sent in ([], [__file__]):
        with pytest.raises(InputError) as error:
            train(desk, "ada", sent, **ASKED)
        assert place_of(str(error.value), FIELDS) == "photos"
    assert spread("the disk is full", FIELDS) == [*("" for _ in FIELDS), "the disk is full"]


def test_bars_are_read_back():
    from dreambooth_jax.progress import Progress

    for n in (3, 40):
        out = io.StringIO()
        with Progress(total=50, desc="train", unit="step", file=out, mininterval=0) as bar:
            for _ in range(n):
                bar.update(1)
            bar.set_postfix(loss="0.1", refresh=True)
        found = bar_of(out.getvalue().replace("\r", "\n").strip().splitlines()[-1].strip())
        assert found[:3] == ("train", n, 50)
    plain = tqdm.format_meter(3, 9, 1.0, prefix="class images")
    assert str(bar_of(plain)).startswith("class images 3 of 9, 00:02 left")
    for line in ("", "saved runs/x", "100 % of [1/2] <3"):
        assert bar_of(line) is None


def test_any_training_is_stopped_and_goes_on_by_its_number(desk):
    first = train(desk, "ada", SUBJECT[:1], **ASKED)
    second = train(desk, "ada", SUBJECT[:1], **ASKED)
    assert stop(desk, "ada", first.number).state == "stopped"
    assert newest_of(desk, "ada", 0).state == "waiting"
    more = again(desk, "ada", first.number)
    assert (more.folder, more.words) == (first.folder, first.words)
    assert newest_of(desk, "ada", first.number).number == more.number
    assert said(desk.queue, more).startswith(f"number {more.number}: waiting")
    assert stop(desk, "ada", first.number).number == more.number
    with pytest.raises(InputError, match="no training"):
        stop(desk, "bob", second.number)
    assert newest_of(desk, "ada", second.number).state == "waiting"


def test_a_loss_is_a_number_before_there_is_one(tmp_path):
    """A plot that has once drawn a table of texts goes on to draw numbers as names, in the order of their coming."""
    import gradio as gr

    sent = gr.LinePlot(x="step", y="loss").postprocess(losses(tmp_path))
    assert sent.datatypes == {"step": "quantitative", "loss": "quantitative"}


def test_why_something_was_refused_stays_in_a_notice(monkeypatch):
    notices = []
    monkeypatch.setattr(attempt.gr, "Warning", lambda text, **how: notices.append((text, how)))

    def refuse():
        raise InputError("/srv/people/x.png: <b>no</b> picture")

    assert attempt.press(refuse) == "x.png: <b>no</b> picture"
    assert notices == [("x.png: &lt;b&gt;no&lt;/b&gt; picture", {"duration": None})]
    assert attempt.press(lambda: "number 1") == attempt.attempt(lambda: "number 1") == "number 1"
    assert len(notices) == 1
