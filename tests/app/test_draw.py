# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is asked for on the page becomes a command line that ``sample`` takes, or is refused."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreambooth_jax.app.limits import DEMO
from dreambooth_jax.app.requests.draw import MAIN, MORE, Drawing, draw
from dreambooth_jax.app.requests.like import read_back
from dreambooth_jax.app.requests.sources import offered, steps_of
from dreambooth_jax.app.requests.start import Sent
from dreambooth_jax.app.requests.train import train
from dreambooth_jax.cli.grid import read_grid
from dreambooth_jax.cli.parsing import read_call
from dreambooth_jax.cli.sample import SAMPLE
from dreambooth_jax.config.setting import rules_of
from dreambooth_jax.data.masks import read_masks
from dreambooth_jax.data.png import save_png
from dreambooth_jax.errors import InputError
from dreambooth_jax.options import SampleOptions

SUBJECT = sorted((Path(__file__).parents[2] / "dreambooth_jax" / "embedded" / "subject").glob("*.png"))
MODEL = {"source": "quickstart", "prompt": "a dog"}
TRAINED = {"config": "quickstart", "noun": "alien", "identifier": "sks", "quality": 1}


def call_of(job):
    """As ``sample`` reads the words of a job."""
    assert job.words[0] == "sample"
    return read_call(SAMPLE, job.words[1:])


def png(image, **given):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", **given)
    return buffer.getvalue()


PICTURE = np.arange(96 * 64 * 3, dtype=np.uint8).reshape(96, 64, 3)
LAYER = np.zeros((96, 64, 4), np.uint8)
LAYER[10:20, 30:40] = 255


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": ""},
        {"prompt": "x" * 3000},
        {"prompt": "a dog <lora:../../secret:1>"},
        {"prompt": "a dog {<lo|<lo}ra:../../secret:1>"},
        {"prompt": "dreambooth-live"},
        {"prompt": "a\0b"},
        {"source": "1"},
        {"source": "/etc/passwd"},
        {"source": "sd15"},
        {"source": "9" * 5000},
        {"step": "100"},
        {"step": "../1"},
        {"weight": 0.5},
        {"before": True},
        {"seed": -1},
        {"seed": 2**32},
        {"count": 0},
        {"count": 1000},
        {"settings": {"negative_prompt": "<{lora|lora}:../../secret:1>"}},
        {"settings": {"negative_prompt": "< LoRA:/etc/passwd>"}},
        {"settings": {"negative_prompt": "\ud800"}},
        {"settings": {"guidance_scale": float("nan")}},
        {"settings": {"steps": 10**9}},
        {"settings": {"steps": "5"}},
        {"settings": {"clip_skip": 1.5}},
        {"settings": {"eta": float("inf")}},
        {"settings": {"sampler": "../x"}},
        {"settings": {"width": 4096}},
        {"settings": {"height": 63}},
        {"settings": {"hires_scale": 8.0, "width": 512}},
        {"settings": {"hires_steps": 1000}},
        {"settings": {"strength": 0.5}},
        {"settings": {"wildcards": "/etc"}},
        {"settings": {"out": "/tmp"}},
        {"settings": {"lora": "/etc/passwd"}},
        {"varied": [("model", "/etc/passwd, quickstart")]},
        {"varied": [("wildcards", "/etc")]},
        {"varied": [("steps", "1, 100000")]},
        {"varied": [("steps", "5"), ("steps", "6")]},
        {"varied": [("steps", "")]},
        {"varied": [("steps", "[1, 2]")]},
        {"varied": [("steps' model='/etc/passwd", "1")]},
        {"varied": [("seed", ",".join(map(str, range(40))))]},
        {"varied": [("prompt", "dreambooth-live;dreambooth-object")]},
        {"varied": [("prompt", "a dog;<lora:x:1>")]},
        {"varied": [("step", "10, 20")]},
        {"prompt": "", "varied": [("seed", "1,2")]},
        {"start": Sent(b"no picture")},
        {"start": Sent(png(PICTURE), [png(LAYER[:50])])},
        {"start": Sent(png(PICTURE), [png(LAYER)] * 9)},
        {"start": Sent(png(PICTURE), percent=(1000, 0, 0, 0))},
        {"start": Sent(png(PICTURE), percent=(float("nan"), 0, 0, 0))},
        {"start": Sent(None, percent=(10, 0, 0, 0))},
    ],
    ids=str,
)
def test_drawings_that_are_refused(changed, desk):
    with pytest.raises(InputError) as error:
        draw(desk, "ada", Drawing(**MODEL | changed))
    assert "\n" not in str(error.value)
    assert desk.queue.of("ada") == []
    assert not desk.place("ada").exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"count": 5},
        {"settings": {"steps": 51}},
        {"settings": {"width": 520}},
        {"varied": [("steps", "10, 51")]},
        {"start": Sent(bytes(11_000_000))},
    ],
    ids=str,
)
def test_strangers_draw_less(changed, desk):
    guarded = replace(desk, limits=DEMO)
    asked = Drawing(**{**MODEL, "start": Sent(png(PICTURE)), "settings": {"steps": 10}, **changed})
    with pytest.raises(InputError):
        draw(guarded, "ada", asked)
    draw(guarded, "ada", Drawing(**MODEL))


@pytest.mark.parametrize("text", ["null", "--config=x", "out=/tmp/x", "[a, b]", "{a}", "-h", "#x", '"', "1e5", "a\nb"])
def test_prompts_stay_prompts(text, desk):
    (job,) = draw(desk, "ada", Drawing(**MODEL | {"prompt": text}, settings={"negative_prompt": text}))
    options = call_of(job).settings
    assert options.prompts == (text,)
    assert options.negative_prompt == text
    assert Path(options.out).is_relative_to(desk.place("ada"))


def test_settings_arrive_as_they_are_told(desk):
    told = {"sampler": "dpmpp_2m", "schedule": "karras", "steps": 7, "guidance_scale": 2.5, "width": 72, "height": 64}
    told |= {"tiled": True, "variation_of": 3, "clip_skip": 2}
    (job,) = draw(desk, "ada", Drawing(**MODEL, seed=5, count=3, settings={**dict.fromkeys(MORE), **told}))
    call = call_of(job)
    assert {name: getattr(call.settings, name) for name in told} == told
    assert (call.settings.seed, call.settings.num_images) == (5, 3)


def test_no_setting_of_the_page_names_a_place():
    fields = SampleOptions.__dataclass_fields__
    assert not any(rules_of(fields[name]).path for name in (*MAIN, *MORE))
    assert not {"lora", "embedding", "control", "queue", "wildcards", "mask", "image"} & {*MAIN, *MORE}


def test_before_and_after_are_drawn_alike(desk):
    training = train(desk, "ada", SUBJECT[:1], **TRAINED)
    after, before = (
        call_of(job) for job in draw(desk, "ada", Drawing(source=str(training.number), prompt="a", before=True))
    )
    assert after.settings.source == training.folder
    assert before.settings.source == "embedded"
    assert before.settings.guidance_scale == 3  # of the run's samples, which its own pictures have by themselves
    assert (before.settings.width, before.settings.height) == (64, 64)
    assert (before.settings.identifier, before.settings.class_noun) == ("sks", "alien")
    assert before.settings.prompts == after.settings.prompts
    assert Path(before.settings.out).parent == Path(after.settings.out).parent


def test_both_of_a_pair_wait_or_none(desk):
    training = train(desk, "ada", SUBJECT[:1], **TRAINED)
    draw(desk, "ada", Drawing(**MODEL))
    with pytest.raises(InputError, match="3 jobs"):
        draw(desk, "ada", Drawing(source=str(training.number), prompt="a", before=True))
    assert [job.state for job in desk.of("ada", "sample")] == ["stopped", "waiting"]


def test_a_training_draws_for_its_owner_alone(desk):
    training = train(desk, "ada", SUBJECT[:1], **TRAINED)
    with pytest.raises(InputError, match="no training"):
        draw(desk, "bob", Drawing(source=str(training.number), prompt="a"))
    assert [value for _, value in offered(desk, "bob")] == ["quickstart"]
    assert [value for _, value in offered(desk, "ada")] == [str(training.number), "quickstart"]
    assert steps_of(desk, "bob", str(training.number)) == [("the newest", "")]


def kept(folder, *steps):
    """A run's folder with checkpoints of these steps, as far as they are listed."""
    for step in steps:
        place = Path(folder) / "checkpoints" / str(step)
        (place / "meta").mkdir(parents=True)
        (place / "_CHECKPOINT_METADATA").touch()
        (place / "meta" / "metadata").touch()


def test_checkpoints_are_offered_and_chosen(desk):
    training = train(desk, "ada", SUBJECT[:1], **TRAINED)
    kept(training.folder, 10, 20)
    number = str(training.number)
    assert [value for _, value in steps_of(desk, "ada", number)] == ["", "20", "10"]
    assert "alien" in offered(desk, "ada")[0][0]
    for step, expected in (("10", 10), ("best", "best"), ("", None)):
        (job,) = draw(desk, "ada", Drawing(source=number, step=step, prompt="a"))
        assert call_of(job).settings.step == expected
        desk.queue.stop("ada", job.number)


def test_a_weight_is_of_the_adapters_file(desk):
    training = train(desk, "ada", SUBJECT[:1], **TRAINED)
    asked = {"source": str(training.number), "prompt": "a {identifier} {class_noun}", "weight": 0.5}
    with pytest.raises(InputError, match="no adapter's file"):
        draw(desk, "ada", Drawing(**asked))
    Path(training.folder).mkdir(parents=True)
    (Path(training.folder) / "lora.safetensors").touch()
    (job,) = draw(desk, "ada", Drawing(**asked))
    options = call_of(job).settings
    assert options.source == "embedded"
    assert options.lora == (f"{training.folder}/lora.safetensors:0.5",)
    assert options.identifier == "sks"
    with pytest.raises(InputError, match="newest checkpoint"):
        draw(desk, "ada", Drawing(**asked, step="10"))


def test_what_is_painted_is_the_mask(desk):
    (job,) = draw(desk, "ada", Drawing(**MODEL, start=Sent(png(PICTURE), [png(LAYER)]), settings={"mask_padding": 8}))
    options = call_of(job).settings
    np.testing.assert_array_equal(np.asarray(Image.open(options.image)), PICTURE)
    (mask,) = read_masks(options.mask)
    np.testing.assert_array_equal(mask, LAYER[..., 3] / 255)
    assert (options.width, options.height) == (None, None)


def test_a_picture_has_the_area_that_the_model_was_made_for_and_grows_by_its_share(desk):
    large = png(PICTURE.repeat(10, 0).repeat(10, 1))
    (job,) = draw(desk, "ada", Drawing(**MODEL, start=Sent(large, percent=(25, 0, 0, 100)), settings={"strength": 0.5}))
    options = call_of(job).settings
    with Image.open(options.image) as image:
        assert image.size == (56, 80)  # 640 x 960 with the area of 64 x 64, in multiples of 8
    assert options.outpaint == (16, 0, 0, 80)
    assert options.mask is None
    assert options.strength == 0.5


def test_an_editor_that_nobody_has_touched_is_no_picture(desk):
    blank = png(np.zeros((96, 64, 4), np.uint8))
    (job,) = draw(desk, "ada", Drawing(**MODEL, start=Sent(blank, [blank])))
    assert call_of(job).settings.image is None
    with pytest.raises(InputError, match="no picture under what is painted"):
        draw(desk, "ada", Drawing(**MODEL, start=Sent(blank, [png(LAYER)])))


def test_a_picture_is_turned_as_its_camera_says(desk):
    exif = Image.Exif()
    exif[0x0112] = 6
    (job,) = draw(desk, "ada", Drawing(**MODEL, start=Sent(png(PICTURE, exif=exif)), settings={"mask_padding": 0}))
    image = np.asarray(Image.open(call_of(job).settings.image))
    np.testing.assert_array_equal(image, np.rot90(PICTURE, -1))


def test_a_matrix_is_a_grid_of_the_command_line(desk):
    varied = [("sampler", "DPM++ 2M Karras, euler_a"), ("prompt", "a dog, in snow; it's a 'cat'")]
    (job,) = draw(desk, "ada", Drawing(**MODEL, settings={"sampler": "ddim", "steps": 5}, varied=varied))
    call = call_of(job)
    sampler, prompt = read_grid(call.settings, call.told)
    assert sampler.texts == ("DPM++ 2M Karras", "euler_a")
    assert prompt.values == ("a dog, in snow", "it's a 'cat'")
    assert call.settings.prompts == ()
    assert call.settings.steps == 5


def test_what_the_samples_of_a_training_have_does_not_stand_beside_a_matrix(desk):
    (job,) = draw(desk, "ada", Drawing(**MODEL, varied=[("guidance_scale", "1, 3"), ("steps", "2;3")]))
    call = call_of(job)
    assert [axis.values for axis in read_grid(call.settings, call.told)] == [(1, 3), (2, 3)]


def test_settings_are_read_back_without_what_names_files(tmp_path):
    about = {
        "prompt": "a dog <lora:/etc/passwd:1> in snow",
        "seed": 7,
        "steps": 9,
        "wildcards": "/etc",
        "model": "/srv/x",
    }
    about |= {"sampler": "euler_a", "adapters": {"/srv/secret:0.5": "ab"}}
    save_png(tmp_path / "sent.png", PICTURE, about)
    found = read_back(tmp_path / "sent.png")
    assert (found.prompt, found.seed) == ("a dog in snow", 7)
    assert found.settings == {"steps": 9, "sampler": "euler_a", "height": 96, "width": 64}
    assert "/etc" not in str(found)
    assert "/srv" not in str(found)


def test_a1111s_pictures_are_read_back(tmp_path):
    text = "a dog\nNegative prompt: blur\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 512x640, Model: x"
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("parameters", text)
    (tmp_path / "sent.png").write_bytes(png(PICTURE, pnginfo=info))
    found = read_back(tmp_path / "sent.png")
    told = {
        "negative_prompt": "blur",
        "steps": 20,
        "sampler": "euler_a",
        "guidance_scale": 7,
        "width": 512,
        "height": 640,
    }
    assert (found.prompt, found.seed) == ("a dog", 5)
    assert told.items() <= found.settings.items()


@pytest.mark.parametrize("sent", [b"", b"PK", png(PICTURE)])
def test_what_says_nothing_is_refused_on_one_line(sent, tmp_path):
    (tmp_path / "sent.png").write_bytes(sent)
    with pytest.raises(InputError, match="the picture") as error:
        read_back(tmp_path / "sent.png")
    assert str(tmp_path) not in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_painted_on_comes_as_it_was_sent(tmp_path, desk):
    """The editor asks for its parts with words of its own, and none of them may be decoded before our bounds."""
    import gradio as gr
    from gradio.components.image_editor import EditorData
    from gradio.data_classes import FileData

    from dreambooth_jax.app.tabs.draw_form import fields

    sheet, layer = (FileData(path=str(tmp_path / name)) for name in ("no_picture.png", "neither.png"))
    with gr.Blocks():
        painted = fields(desk)["picture"]
    sent = painted.preprocess(EditorData(background=sheet, layers=[layer], composite=sheet))
    assert (sent["background"], sent["layers"]) == (Path(sheet.path), [Path(layer.path)])
