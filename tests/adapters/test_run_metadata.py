# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What files say of the run that they come from: pictures and rates."""

import json

import numpy as np
import pytest

from dreambooth_jax.config.concepts import concepts_of
from dreambooth_jax.data.captions import ONE_EACH
from dreambooth_jax.data.sources import load_images
from dreambooth_jax.export import metadata_of_words, run_metadata
from dreambooth_jax.prepare.cache import Examples
from dreambooth_jax.prepare.photos import subject_of
from dreambooth_jax.prepare.prepared import PreparedConcept
from dreambooth_jax.prepare.told import told_of
from tests.runs import draw_photos, tiny_config


def examples(photos):
    zeros = np.zeros((len(photos), 1, 2, 2, 4), np.float32)
    return Examples(photos=photos, moments=(zeros, zeros))


def prepared(config, photos, classes):
    """The subjects of a run: all have the same photos, in two sizes, and the same class images."""

    def read(folder, concept):
        return load_images(folder, prompt=concept.instance_prompt, subject=subject_of(concept))

    return [
        PreparedConcept(
            concept=concept,
            instance=[examples(read(photos, concept)[:2]), examples(read(photos, concept)[2:])],
            prior=examples(read(classes, concept)) if classes else None,
            captions=ONE_EACH,
        )
        for concept in concepts_of(config)
    ]


def said_of(config, photos, classes=None):
    return run_metadata(config, step=3, pictures=json.loads(json.dumps(told_of(prepared(config, photos, classes)))))


@pytest.fixture
def photos(tmp_path):
    return draw_photos(tmp_path / "photos", 5)


TWO = [
    {"identifier": "sks", "class_noun": "dog", "instance_images": "a", "repeats": 3},
    {"identifier": "zwx", "class_noun": "cat", "instance_images": "b", "weight": 0},
]


def test_class_images_are_counted_where_there_are_some(tmp_path, photos):
    """prior.num_images=0 takes all that are there."""
    classes = draw_photos(tmp_path / "class", 7)
    told = tiny_config(tmp_path, "prior.num_images=0")
    assert said_of(told, photos, classes)["ss_num_reg_images"] == "7"
    for settings in (["prior.kind=teacher"], ["prior.weight=0"]):
        assert said_of(tiny_config(tmp_path, *settings), photos)["ss_num_reg_images"] == "0"


def test_what_subjects_share_counts_once_and_photos_as_often_as_an_epoch_has_them(tmp_path, photos):
    config = tiny_config(tmp_path, "data.instance_images=", f"data.concepts={json.dumps(TWO)}")
    said = said_of(config, photos, draw_photos(tmp_path / "class", 4))
    assert (said["ss_num_train_images"], said["ss_num_reg_images"]) == ("20", "4")
    dirs = json.loads(said["ss_dataset_dirs"])
    assert dirs == {"3_sks dog": {"n_repeats": 3, "img_count": 5}, "1_zwx cat": {"n_repeats": 1, "img_count": 5}}
    assert json.loads(said["ss_tag_frequency"]).keys() == dirs.keys()


def test_tags_of_captions_are_counted_as_sd_scripts_do(tmp_path, photos):
    """What is between commas, in small letters; a photo without a caption is called as its subject is."""
    (photos / "0.txt").write_text("A {identifier} dog,  Red collar, grass, , grass")
    (photos / "1.txt").write_text("grass,a sks dog\n")
    (tags,) = json.loads(said_of(tiny_config(tmp_path), photos)["ss_tag_frequency"]).values()
    assert tags == {"a sks dog": 2, "red collar": 1, "grass": 3, "sks dog": 3}


@pytest.mark.parametrize(("kind", "images"), [("pictures", "None"), ("teacher", "0")])
def test_of_runs_of_before_nothing_is_said_that_is_not_known(tmp_path, kind, images):
    said = run_metadata(tiny_config(tmp_path, f"prior.kind={kind}"), step=3)
    assert (said["ss_num_train_images"], said["ss_num_reg_images"]) == ("None", images)
    assert "ss_dataset_dirs" not in said
    assert json.loads(said["ss_tag_frequency"]) == {"1_sks dog": {"sks dog": 1}}


def test_rates_of_words_are_their_own(tmp_path):
    rates = ("optimizer.learning_rate=3e-4", "tokens.learning_rate=7e-3", "adapter.kind=pivotal")
    config = tiny_config(tmp_path, *rates)
    said = run_metadata(config, step=3)
    names = ("ss_learning_rate", "ss_unet_lr", "ss_text_encoder_lr")
    assert [said[name] for name in names] == ["0.0003", "0.0003", "None"]
    words = metadata_of_words(said, config)
    assert [words[name] for name in names] == ["0.007", "None", "None"]
    assert {name: text for name, text in words.items() if name not in names} == {
        name: text for name, text in said.items() if name not in names
    }
