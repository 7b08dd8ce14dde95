# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Photos made bad on purpose, one way at a time."""

import numpy as np
import pytest
from PIL import Image

from dreambooth_jax.doctor.diagnosis import findings
from dreambooth_jax.doctor.examine import pieces_of
from dreambooth_jax.doctor.patient import Piece
from dreambooth_jax.doctor.photo_facts import facts, likeness
from dreambooth_jax.pipeline.load import EMBEDDED
from tests.doctor.patients import blurred, centred, patient, photo, photos_of, scene

SCENES = [scene(seed) for seed in range(5)]


def found_in(pictures, *words, **changes):
    return {finding.name: finding for finding in findings(patient(*words, photos=photos_of(*pictures), **changes))}


def brighter(picture):
    return np.clip(picture * 0.8 + 40, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("pictures", "name", "said"),
    [
        ([*SCENES[:4], brighter(SCENES[1])], "twins", "1.png and 4.png"),
        ([*SCENES[:4], np.asarray(Image.fromarray(SCENES[1]).resize((100, 100)))], "twins", "1.png and 4.png"),
        ([*SCENES[:4], blurred(SCENES[4])], "blurred", "4.png"),
        ([*SCENES[:4], scene(9, side=40)], "tiny", "4.png (40x40)"),
        ([centred(seed) for seed in range(20, 24)], "centred", "in all 4"),
        (SCENES[:2], "few_photos", "2 photos"),
    ],
    ids=["twin", "smaller-twin", "blurred", "tiny", "centred", "few"],
)
def test_bad_photos_are_named(pictures, name, said):
    found = found_in(pictures)
    assert name in found
    assert said in found[name].evidence[0]


def test_other_crops_of_one_photo_are_all_alike():
    whole = scene(3, side=160)
    crops = [whole[at : at + 152, at : at + 152] for at in range(0, 8, 2)]
    assert found_in(crops).keys() & {"alike", "twins"}


def test_good_photos_are_not_named():
    assert found_in(SCENES) == {}
    assert found_in(SCENES[:3]) == {}
    assert found_in([scene(seed, side=side) for seed, side in enumerate((64, 200, 500, 1000))]) == {}


def test_the_same_photo_turned_around_is_no_twin():
    assert "twins" not in found_in([*SCENES[:4], SCENES[1][:, ::-1]])


def test_random_crops_are_not_asked_for_again():
    pictures = [centred(seed) for seed in range(20, 24)]
    assert found_in(pictures)["centred"].change == "data.crop=random"
    assert found_in(pictures, "data.crop=random")["centred"].change.startswith("data.instance_images")


def test_captions_without_the_identifier():
    photos = [photo(f"{i}.png", picture, prompt="an alien on the moon") for i, picture in enumerate(SCENES)]
    assert [finding.name for finding in findings(patient(photos=photos))] == ["unnamed"]
    words = ("adapter.kind=textual_inversion", "prior.weight=0", "text_encoder.stop=0")
    assert findings(patient(*words, photos=photos)) == []


@pytest.mark.parametrize(
    ("pieces", "wrong"),
    [
        ([("sks</w>", False)], False),
        ([("dog</w>", True)], True),
        ([("my", True), ("dog</w>", True)], True),
        ([("oh", True), ("wx</w>", False)], False),
        ([("x", False)] * 4, True),
    ],
)
def test_identifiers(pieces, wrong):
    pieces = [Piece(text=text, common=common) for text, common in pieces]
    assert [finding.name for finding in findings(patient(pieces=pieces))] == ["identifier"] * wrong


def test_words_of_a_small_vocabulary_are_all_rare():
    from dreambooth_jax.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(EMBEDDED / "tokenizer")
    pieces = pieces_of(tokenizer, "sks dog")
    assert [piece.text for piece in pieces] == tokenizer.pieces("sks dog")
    assert not any(piece.common for piece in pieces)


@pytest.mark.parametrize("blur", [False, True])
def test_sharpness_has_no_unit(blur):
    """Negation does not change it, blur lowers it, and white noise has 20 / 16."""
    picture = blurred(SCENES[0]) if blur else SCENES[0]
    sharp = facts(picture, side=64).sharpness
    assert facts(255 - picture, side=64).sharpness == pytest.approx(sharp, rel=1e-2)
    noise = np.repeat(np.random.default_rng(0).integers(0, 256, (300, 300, 1), np.uint8), 3, axis=2)
    assert facts(noise, side=300).sharpness == pytest.approx(20 / 16, rel=0.02)
    assert sharp < 20 / 16
    assert blur or facts(blurred(picture), side=64).sharpness < 0.1 * sharp


def test_the_middle_is_where_the_detail_is():
    picture = np.zeros((60, 120, 3), np.uint8)
    assert facts(picture, side=60).middle == (0.5, 0.5)
    picture[40:50, 20:30] = 255
    assert facts(picture, side=60).middle == pytest.approx((45 / 60, 25 / 120), abs=0.01)


def test_likeness_is_a_correlation():
    plain, a, b = (facts(one, side=64) for one in (np.full((64, 64, 3), 9, np.uint8), SCENES[0], 255 - SCENES[0]))
    assert likeness([a, a, b]) == pytest.approx([1, -1, -1], abs=1e-2)
    assert likeness([plain, a]) == pytest.approx([0])
