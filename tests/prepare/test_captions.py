# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How a run's photos are called changes nothing of what is cached."""

from pathlib import Path

import numpy as np
import pytest

from dreambooth_jax.checks import check_config
from dreambooth_jax.config import load_config
from dreambooth_jax.config.concepts import concepts_of
from dreambooth_jax.prepare.photos import captions_of, read_instance_photos
from dreambooth_jax.prepare.prepared import prepare
from dreambooth_jax.runs import RunFolder
from dreambooth_jax.target import Target
from dreambooth_jax.train_setup import mapper_of
from dreambooth_jax.trainer.training import set_up
from dreambooth_jax.training.interrupt import Interrupt
from tests.runs import draw_photos, tiny_config

WAYS = (
    *("data.templates=a {identifier} {class_noun}; the {identifier}", "data.tag_orders=3", "data.caption_dropout=0.4"),
    "data.dropout_prompt=class",
)


def prepared(root: Path, *overrides):
    config = tiny_config(root, "prior.weight=0", "train.batch_size=8", *overrides)
    mapper = mapper_of(config, Target.here())
    return config, mapper, prepare(config, RunFolder(Path(config.run_dir)), Interrupt(), mapper)


@pytest.mark.slow
def test_captions_leave_caches_untouched(tmp_path, monkeypatch):
    draw_photos(tmp_path / "photos", 2)
    (tmp_path / "photos" / "0.txt").write_text("{identifier}, red, green, blue")
    (tmp_path / "photos" / "metadata.jsonl").write_text('{"file_name": "1.png", "weight": 0.5}')
    _, _, before = prepared(tmp_path)
    cache = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "cache").iterdir()}
    assert cache
    monkeypatch.setattr("dreambooth_jax.prepare.cache._encode_all", None)  # encoding again would fail
    config, mapper, after = prepared(tmp_path, *WAYS, "data.masks=alpha")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "cache").iterdir()} == cache
    for one, other in zip(before.concepts[0].instance[0].moments, after.concepts[0].instance[0].moments):
        assert (one == other).all()
    training, trainable = set_up(config, after, mapper)
    state = training.setup.fresh_state(trainable)
    inputs = training.inputs_for(training.setup.phases[0], mapper.place(state))
    (stream,) = inputs.data.streams
    texts = {name: rows.shape for name, rows in stream.table.text.items()}
    np.testing.assert_array_equal(stream.table.example_weights, [1, 0.5])
    assert {shape[0] for shape in texts.values()} == {3 + 2 + 1}  # orders, templates, the class prompt
    shapes = {name: rows.shape for name, rows in inputs.data.batch_at(0).items()}
    assert shapes == {name: one.shape for name, one in training.setup.batch(("unet",)).items()}


def test_what_photos_are_called(tmp_path):
    draw_photos(tmp_path / "photos", 2)
    (tmp_path / "photos" / "0.txt").write_text("{identifier}, red, green, blue")
    config = tiny_config(tmp_path, *WAYS)
    (concept,) = concepts_of(config)
    captions = captions_of(concept, config.data, seed=0)
    tagged, plain = (captions.texts(photo) for photo in read_instance_photos(concept, config.data))
    assert len(tagged) == 3
    assert all(text.startswith("sks, ") and len(text) == len("sks, red, green, blue") for text in tagged)
    assert (plain, captions.dropped) == (["a sks dog", "the sks"], "a photo of a dog")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.templates=a dog; a {identifier}", "data.templates has 'a dog' without {identifier}"),
        ("data.caption_dropout=1", "data.caption_dropout is 1: no photo is ever called by its prompt"),
    ],
)
def test_what_can_hardly_be_meant_is_a_warning(caplog, override, message):
    check_config(load_config(None, ["data.class_noun=dog", override]))
    assert any(message in line for line in caplog.messages)
