# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What may be set from a browser, and how much of it."""

import os
from pathlib import Path
from typing import get_args

import pytest

from dreambooth_jax.app.lifetime import HOUR, forget
from dreambooth_jax.app.limits import DEMO, USUAL, check_limits
from dreambooth_jax.app.offers import METHODS, offers_of
from dreambooth_jax.app.queue import Queue
from dreambooth_jax.app.recipes import recipe
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.requests.settings import LAYERS, TEXTS, opened, words_of
from dreambooth_jax.app.requests.train import train
from dreambooth_jax.checks import check_config
from dreambooth_jax.config import load_config
from dreambooth_jax.config.parse import key_types
from dreambooth_jax.config.schema import Config
from dreambooth_jax.config.setting import entry_kind
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline.load import EMBEDDED

SUBJECT = sorted((EMBEDDED / "subject").glob("*.png"))
ASKED = {"config": "quickstart", "noun": "alien", "identifier": "sks", "quality": 1}
SERVER = (
    *("model.path", "model.vae", "model.tokenizer", "model.revision", "run_dir", "data.instance_images"),
    *(
        "data.subjects",
        "data.concepts",
        "prior.class_images",
        "prior.wildcards",
        "samples.preview_vae",
        "adapter.begin",
    ),
    *("validation.images", "evaluate.dino", "evaluate.judge", "train.device_memory", "optimizer.rules"),
)


@pytest.fixture
def desk(tmp_path):
    return Desk(Queue(tmp_path / "jobs", most=9), tmp_path / "people", ("quickstart",))


def texts(kind):
    return (
        kind is str or entry_kind(kind) is not None or any(texts(part) for part in get_args(kind) if part is not kind)
    )


def test_whatever_is_text_is_closed_unless_somebody_opened_it():
    """Of all settings, also of those that are still to be written: paths are never open, texts only by name."""
    kinds = key_types(Config)
    assert {*TEXTS, *LAYERS} <= opened().keys() <= kinds.keys()
    for key in opened():
        fine = key in (*TEXTS, *LAYERS) or not texts(kinds[key]) or key == "data.resolution"
        assert fine or key.endswith((".sampler", ".schedule")), key
    assert not opened().keys() & {*SERVER}
    assert all(one.help for one in opened().values())
    assert len(opened()) > 100


@pytest.mark.parametrize("key", SERVER)
def test_what_is_the_servers_is_refused(key, desk):
    with pytest.raises(InputError, match=f"^{key} is not set from the page"):
        train(desk, "ada", SUBJECT[:1], **ASKED, settings=f"{key}=/etc/passwd")
    assert desk.queue.of("ada") == []


@pytest.mark.parametrize(
    "text",
    [
        *("train.steps", "steps=5", "--config=/etc/passwd", "config=/etc/passwd", "train.steps=1000000", "=5"),
        *("train.steps=!!python/object/apply:os.system ['true']", "data.resolution=4096", "train.batch_size=0"),
        *("adapter.targets=(a+)+$", "samples.prompts=<lora:/etc/passwd:1>", "prior.num_images=100000", "train.steps=x"),
        *("samples.prompts=" + "a;" * 500, "train.steps=5\n" * 100, "train.steps=5\0", "samples.num_images=1000"),
    ],
)
def test_settings_that_are_refused(text, desk):
    from dreambooth_jax.app.beside import place_of

    pytest.importorskip("gradio")
    from dreambooth_jax.app.tabs.train_form import FIELDS

    with pytest.raises(InputError) as error:
        train(desk, "ada", SUBJECT[:1], **ASKED, settings=text)
    assert "\n" not in str(error.value)
    assert place_of(str(error.value), FIELDS) == "settings", error.value
    assert not list(desk.folder.glob("*/photos/*"))


def test_settings_win_over_the_slider(desk):
    job = train(desk, "ada", SUBJECT[:1], **ASKED, settings="train.steps = 7\n\nsamples.prompts=a dog; a cat = 5")
    config = load_config(job.words[1], job.words[2:])
    assert config.train.steps == 7
    assert config.samples.prompts == ("a dog", "a cat = 5")


def test_a_demo_is_tighter_in_everything_and_still_trains_the_quick_start():
    assert DEMO.most.keys() == USUAL.most.keys()
    assert all(DEMO.most[key] <= most for key, most in USUAL.most.items())
    for quality in (1, 2, 3):
        more = ["data.class_noun=dog", *recipe(load_config("quickstart"), quality)]
        check_limits(load_config("quickstart", more), DEMO)
    for key, most in DEMO.most.items():
        value = ";".join("a" * (most + 1)) if key in TEXTS else most * 2
        with pytest.raises(InputError, match=f"^{key} = "):
            check_limits(load_config("quickstart", ["data.class_noun=dog", f"{key}={value}"]), DEMO)


def test_models_are_what_the_server_offers_by_every_method(tmp_path):
    offers = offers_of([f"tiny={EMBEDDED}"])
    desk = Desk(Queue(tmp_path / "jobs", most=9), tmp_path / "people", ("quickstart",), models=offers)
    assert desk.offered == ["quickstart", "tiny"]
    for method, file in METHODS.items():
        job = train(desk, "ada", SUBJECT[:1], **ASKED | {"config": "tiny", "method": method})
        config = load_config(job.words[1], job.words[2:])
        check_config(config)
        assert (config.model.path, config.data.resolution) == (str(EMBEDDED), 64)
        assert config.adapter.kind == load_config(file).adapter.kind
    for config, method in (("tiny", "magic"), ("quickstart", "full"), (str(EMBEDDED), ""), ("/etc/passwd", "")):
        with pytest.raises(InputError):
            train(desk, "ada", SUBJECT[:1], **ASKED | {"config": config, "method": method})
    assert train(desk, "ada", SUBJECT[:1], **ASKED, method="quick LoRA").words[1] == "quickstart"
    for models in ([f"a={EMBEDDED}", f"a={EMBEDDED}"], ["no=/no/such"], ["="]):
        with pytest.raises(InputError, match="models"):
            offers_of(models)


def test_what_is_old_is_forgotten_but_not_what_is_needed(desk):
    keeps, ended = (train(desk, "ada", SUBJECT[:1], **ASKED) for _ in range(2))
    desk.queue.stop("ada", ended.number)
    export = desk.cache / "ab" / "dog.safetensors"
    for place in (Path(keeps.folder), Path(ended.folder), export.parent):
        place.mkdir(parents=True)
    export.touch()
    now = os.stat(keeps.folder).st_mtime
    assert forget(desk.queue, desk.folder, hours=1, now=now + 0.5 * HOUR) == []
    forgotten = forget(desk.queue, desk.folder, hours=1, now=now + 2 * HOUR)
    assert Path(ended.folder) in forgotten
    assert len(forgotten) == 3  # and its photos, and what was taken home
    assert not export.exists()
    assert Path(keeps.folder).is_dir()
    assert load_config(keeps.words[1], keeps.words[2:]).data.instance_images not in map(str, forgotten)
    assert words_of("") == []


def test_all_together_have_a_bound(tmp_path):
    queue = Queue(tmp_path, most=9, whole=2)
    queue.add("ada", ("x",), tmp_path)
    queue.add("bob", ("x",), tmp_path)
    with pytest.raises(InputError, match="2 jobs of all"):
        queue.add("eve", ("x",), tmp_path)
