# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The model and the pictures that ship with the package."""

import numpy as np

from dreambooth_jax.config import DataConfig, ModelConfig, load_config
from dreambooth_jax.prepare.inputs import EMBEDDED, open_pretrained, read_photos
from dreambooth_jax.trees import count


def test_it_is_small_and_its_licences_travel_with_it():
    files = [path for path in EMBEDDED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 30e6
    names = {str(path.relative_to(EMBEDDED)) for path in files}
    assert {"README.md", "ATTRIBUTION.txt", "model_index.json"} <= names
    assert any(name.startswith("LICENCES/") for name in names)


def test_it_opens_and_draws():
    pipe = open_pretrained(ModelConfig(path="embedded"))
    assert pipe.native_size == 64
    assert count(pipe.params) < 15e6
    (picture,) = pipe(["a red car on a blue background"], steps=2)
    assert picture.shape == (64, 64, 3)
    assert picture.std() > 5


def test_the_rare_words_fall_into_pieces_that_it_knows():
    pipe = open_pretrained(ModelConfig(path="embedded"))
    for word in ("sks", "zwx", "olis"):
        assert 1 <= len(pipe.tokenizer.pieces(word)) <= 4


def test_the_subject_has_five_pictures():
    photos = read_photos("embedded", prompt="a sks alien", data=DataConfig(class_noun="alien", resolution=64))
    assert len(photos) == 5
    assert len({photo.digest for photo in photos}) == 5
    assert all(np.asarray(photo.image()).std() > 10 for photo in photos)


def test_the_quickstart_uses_both():
    config = load_config(EMBEDDED.parents[1] / "configs" / "quickstart.yaml")
    assert (config.model.path, config.data.instance_images) == ("embedded", "embedded")
