# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Numbers of pictures by an eye that sees colours alone, where they are known beforehand."""

import numpy as np
import pytest
from PIL import Image

from dreambooth_jax.doctor.looks import Eye, eye_of, look
from dreambooth_jax.doctor.nouns import named_by_clip, named_by_judge
from dreambooth_jax.doctor.symptoms import symptoms
from dreambooth_jax.evaluation.judge import load
from dreambooth_jax.evaluation.measures import unit
from dreambooth_jax.evaluation.scores import Group, Material, Towers
from dreambooth_jax.evaluation.towers import ClipTower
from dreambooth_jax.prepare.photos import SHIPPED
from tests.doctor.patients import scene

RED, BLUE, PINK = (255, 0, 0), (0, 0, 255), (255, 0, 90)


def colours(pictures):
    return unit(np.stack([picture.mean((0, 1)) for picture in pictures]).astype(np.float64))


COLOURS = Eye("colours", colours)


def of(*ours):
    """A picture of each colour, with a dark corner, so that it has contrast."""
    pictures = [np.full((16, 16, 3), one, np.uint8) for one in ours]
    for picture in pictures:
        picture[:4, :4] = 0
    return pictures


def material(photos, subject, before, of_class, class_before):
    groups = {
        "subject": [Group("a", "a", of(*subject), of(*before))],
        "class": [Group("c", "c", of(*of_class), of(*class_before))],
    }
    return Material(photos=of(*photos), groups=groups)


def seen(*pictures, **options):
    return look(material(*pictures), COLOURS, noun="thing", **options)


def test_what_is_the_class_still_has_learnt_nothing_and_leaked_nothing():
    looks = seen((RED, PINK), (BLUE,), (BLUE,), (BLUE,), (BLUE,))
    assert looks.learnt == looks.leaked == 0
    assert [symptom.name for symptom in symptoms(looks)] == ["no_likeness"]


def test_what_is_as_the_photos_are_has_learnt_all_and_copied():
    looks = seen((RED, PINK), (RED, PINK), (BLUE, BLUE), (BLUE,), (BLUE,))
    assert looks.learnt >= 1
    assert looks.nearest == pytest.approx(1)
    assert [symptom.name for symptom in symptoms(looks)] == ["copies"]


def test_a_class_that_has_become_the_subject():
    looks = seen((RED, PINK), ((255, 0, 200),), (BLUE,), (RED, PINK), (BLUE, BLUE))
    assert looks.leaked >= 1
    assert "leaks" in [symptom.name for symptom in symptoms(looks)]


def test_class_images_of_the_subject():
    pictures = ((RED, PINK), (RED,), (BLUE,), (BLUE,), (BLUE,))
    assert np.isnan(seen(*pictures).class_images)
    looks = seen(*pictures, class_images=of(RED))
    assert looks.share(looks.class_images) >= 1
    assert seen(*pictures, class_images=of(BLUE)).share(looks.class_before) == pytest.approx(0)


def test_one_photo_has_no_spread():
    looks = seen((RED,), (RED,), (BLUE,), (BLUE,), (BLUE,))
    assert np.isnan(looks.photos)
    assert looks.ceiling == looks.learnt == 1
    assert symptoms(looks) == []


def test_noise_and_emptiness_are_broken():
    scenes = [scene(seed, side=64) for seed in range(4)]
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    grey = (np.asarray(scenes[0]) // 10 + 100).astype(np.uint8)
    for drawn, broken in ((noise, True), (grey, True), (scenes[3], False)):
        groups = {
            "subject": [Group("a", "a", [drawn], [scenes[1]])],
            "class": [Group("c", "c", [scenes[2]], [scenes[2]])],
        }
        looks = look(Material(photos=scenes, groups=groups), COLOURS, noun="thing")
        assert ("broken" in [symptom.name for symptom in symptoms(looks)]) == broken


def test_likenesses_do_not_depend_on_the_order():
    one = seen((RED, PINK), (RED, BLUE), (BLUE, PINK), (BLUE, RED), (BLUE, PINK))
    other = seen((PINK, RED), (BLUE, RED), (PINK, BLUE), (RED, BLUE), (PINK, BLUE))
    for name in ("photos", "subject", "subject_before", "class_after", "class_before", "learnt", "leaked"):
        assert getattr(one, name) == pytest.approx(getattr(other, name)), name


def test_without_towers_there_is_no_eye():
    assert eye_of(Towers()) is None


def test_the_judge_names_the_shipped_subject():
    judge = load()
    photos = [np.asarray(Image.open(file).convert("RGB")) for file in sorted(SHIPPED["embedded"].glob("*.png"))]
    assert named_by_judge(judge, photos, "alien").most > 0.9
    assert named_by_judge(judge, photos, "green alien") == named_by_judge(judge, photos, "alien")
    assert named_by_judge(judge, photos, "dog").most < 0.001
    assert named_by_judge(judge, photos, "dog").instead == "alien"
    assert named_by_judge(judge, photos, "axolotl") is None


class Clip(ClipTower):
    """Sees colours, and reads their names: an apple is red, everything else is blue."""

    def __init__(self):
        pass

    def pictures(self, pictures):
        return colours(pictures)

    def texts(self, texts):
        return colours(of(*(RED if text.endswith(("apple", "red")) else BLUE for text in texts)))


def test_clip_tells_a_noun_from_others():
    naming = named_by_clip(Clip(), of(RED, PINK), "boat")
    assert naming.instead == "apple"
    assert naming.most < 0.001
    assert named_by_clip(Clip(), of(RED, PINK), "apple").most > 0.9


def test_clips_obedience_is_nothing_where_prompts_do_not_matter():
    reads = eye_of(Towers(clip=Clip())).obedience
    kept = [Group("r", "red", of(RED), ()), Group("b", "blue", of(BLUE), ())]
    lost = [Group("r", "red", of(RED), ()), Group("b", "blue", of(RED), ())]
    assert reads(kept) == pytest.approx(1)
    assert reads(lost) == pytest.approx(0)
    assert np.isnan(reads(kept[:1]))
