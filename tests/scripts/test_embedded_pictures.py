# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Composed pictures and their captions: each says of the other what is true."""

import numpy as np
import pytest
from embedded import colours, scenes
from embedded.compose import Composer, Grammar, article
from embedded.corpus import load_or_compose
from embedded.measure import class_captions, shares_right
from embedded.sprites import decode, read_sprites, weights
from PIL import Image

from dreambooth_jax.evaluation.drawn_scenes import (
    BACKGROUNDS,
    PLACES,
    border_colour,
    nearest_background,
    said_background,
    said_place,
)


@pytest.fixture(scope="module")
def sprites(sprite_folder):
    return read_sprites(sprite_folder)


def composed(sprites, count, **grammar):
    composer = Composer(sprites, Grammar(**grammar), seed=0)
    pictures, captions = zip(*(composer(i) for i in range(count)))
    return np.stack(pictures), captions


def test_only_what_is_asked_for_is_read(sprite_folder, sprites):
    assert len(sprites) == 8
    assert {s.name for s in read_sprites(sprite_folder, split="heldout")} == {"big box"}
    assert {s.noun for s in read_sprites(sprite_folder, nouns=["box"], styles=["flat"])} == {"box"}
    with pytest.raises(SystemExit, match="no sprite"):
        read_sprites(sprite_folder, nouns=["dog"])


def test_an_exponent_of_minus_one_makes_classes_equal(sprites):
    uneven = [*sprites, *[s for s in sprites if s.noun == "box"]]
    chances = weights(uneven, -1.0)
    boxes = sum(chance for sprite, chance in zip(uneven, chances) if sprite.noun == "box")
    np.testing.assert_allclose([chances.sum(), boxes], [1.0, 0.5])


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_a_background_has_the_colour_that_its_name_says(name):
    rgb = np.array(BACKGROUNDS[name], np.float32)
    assert nearest_background(rgb) == name
    assert colours.name_pixels(rgb[None] / 255) == [name]


def test_shares_are_of_the_opaque_part():
    picture = Image.new("RGBA", (96, 96))
    picture.paste((206, 44, 48, 255), (0, 0, 48, 96))
    picture.paste((46, 98, 204, 255), (48, 0, 64, 96))
    (first, most), (second, rest) = colours.shares(picture)
    assert (first, second) == ("red", "blue")
    np.testing.assert_allclose([most, rest], [3 / 4, 1 / 4], atol=0.05)
    assert colours.shares(Image.new("RGBA", (96, 96))) == []


@pytest.mark.parametrize("target", [name for name in colours.HUES if name != "red"])
def test_recoloured_means_that_it_reads_so(sprites, target):
    red = next(sprite for sprite in sprites if sprite.main_colour[0] == "red")
    turned = colours.recolour(decode(red.image), red.main_colour, target)
    assert turned is None or colours.shares(turned)[0][0] == target
    assert turned is None or turned.getchannel("A").tobytes() == decode(red.image).getchannel("A").tobytes()
    assert colours.recolour(decode(red.image), ("gray", 1.0), target) is None
    assert colours.recolour(decode(red.image), ("red", 0.4), target) is None


def test_captions_are_true(sprites):
    pictures, captions = composed(sprites, 300, one=0.9, placed=0.5, plain=0.9)
    right = shares_right(pictures, captions)
    assert right["background_captions"] > 200
    assert right["place_captions"] > 80
    # but for a big box that covers the border, or a red ball on red
    assert right["background_right"] > 0.9
    assert right["place_right"] > 0.9


def test_captions_are_wrong_about_other_pictures(sprites):
    pictures, captions = composed(sprites, 300, placed=0.5, plain=1.0)
    right = shares_right(np.roll(pictures, 1, axis=0), captions)
    assert right["background_right"] < 0.25
    assert right["place_right"] < 0.4


def test_what_captions_say_is_found_in_them():
    assert said_background("a sks ball on an orange background") == "orange"
    assert said_background("a ball on a red and blue striped background") is None
    assert said_place("a ball at the bottom in the snow") == "at the bottom"
    assert said_place("a ball at night") is None


@pytest.mark.parametrize("words", scenes.GROUNDS)
def test_places_differ(words):
    rng = np.random.default_rng(0)
    picture = np.asarray(scenes.place(rng, 64, words))
    assert picture.shape == (64, 64, 3)
    assert np.abs(picture[0].astype(int) - picture[-1]).max() > 20  # sky or wall, and ground


@pytest.mark.parametrize(
    ("words", "whole"),
    [
        ("apple", "an apple"),
        ("red apple", "a red apple"),
        ("cherries", "cherries"),
        ("bus", "a bus"),
        ("bowl with sushi", "a bowl with sushi"),
        ("glass of milk", "a glass of milk"),
        ("flat bread", "flat bread"),
    ],
)
def test_articles(words, whole):
    assert article(words) == whole


def test_every_part_of_the_grammar_is_reached(sprites):
    _, captions = composed(sprites, 400)
    said = " ".join(captions)
    for words in (*PLACES, *scenes.GROUNDS, *scenes.PATTERNS, "and", "next to", "above", "small", "big", "flat", "3d"):
        assert words in said


def test_a_corpus_does_not_depend_on_who_composes_it(sprites, tmp_path):
    composer = Composer(sprites, Grammar(size=32), seed=3)
    corpus = load_or_compose(tmp_path / "corpus", composer, count=40, workers=1)
    for i in (0, 17, 39):
        picture, caption = composer(i)
        assert np.array_equal(corpus.pictures[i], picture)
        assert corpus.captions[i] == caption
    before = (tmp_path / "corpus" / "pictures.npy").stat().st_mtime_ns
    assert load_or_compose(tmp_path / "corpus", composer, count=40, workers=1).captions == corpus.captions
    assert (tmp_path / "corpus" / "pictures.npy").stat().st_mtime_ns == before


def test_the_border_is_two_pixels_wide():
    picture = np.full((8, 8, 3), 200, np.uint8)
    picture[2:-2, 2:-2] = 0
    np.testing.assert_array_equal(border_colour(picture), [200, 200, 200])


def test_classes_with_members_enough_are_asked_for_before_different_backgrounds(sprites):
    asked = class_captions([*sprites, *sprites[:1]], members=5, each=3)
    assert set(asked.values()) == {sprites[0].noun}
    assert len({said_background(caption) for caption in asked}) == 3
    assert len(class_captions(sprites, members=4, each=3)) == 6
    assert not class_captions(sprites, members=6)
