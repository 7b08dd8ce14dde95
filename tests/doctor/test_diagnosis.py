# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Each case alone, and what explains it, on numbers as pictures give them."""

from dataclasses import replace

import pytest

from dreambooth_jax.doctor.causes import CAUSES
from dreambooth_jax.doctor.diagnosis import findings
from dreambooth_jax.doctor.nouns import Naming
from dreambooth_jax.doctor.regimen import RECIPES, recipe_for, shipped
from dreambooth_jax.doctor.symptoms import SYMPTOMS, symptoms
from tests.doctor.patients import HEALTHY, ill, patient, photos_of, scene

NO_LIKENESS = {"subject": 0.6}
COPIES = {"nearest": 0.98}
ONE_SCENE = {"obeyed": 0.3}
BROKEN = {"grain": 0.2}
EMPTY = {"contrast": 0.1}
LEAKS = {"class_after": 0.72}
RATE, STEPS = "optimizer.learning_rate", "train.steps"


def names(one):
    return [finding.name for finding in findings(one)]


def changes(one):
    return [finding.change for finding in findings(one)]


def test_nothing_is_said_of_a_healthy_run():
    assert names(patient()) == []
    assert names(patient(looks=None)) == []


@pytest.mark.parametrize(
    ("looks", "words", "name", "change"),
    [
        (NO_LIKENESS, ["train.steps=100"], "too_short", "train.steps=350"),
        (NO_LIKENESS, [f"{RATE}=1e-4"], "rate_too_low", f"{RATE}=0.001"),
        (NO_LIKENESS, [f"{RATE}=1e-2"], "rate_too_high", f"{RATE}=0.001"),
        (NO_LIKENESS, ["train.steps=2000"], "too_long", "train.steps=350"),
        (NO_LIKENESS, ["prior.weight=4"], "strong_prior", "prior.weight=1"),
        (NO_LIKENESS, ["text_encoder.stop=0"], "encoder_rests", "text_encoder.stop=-1"),
        (NO_LIKENESS, [], "nothing_helps", "optimizer.schedule=cosine"),
        (COPIES, ["train.steps=2000"], "too_long", "train.steps=350"),
        (COPIES, ["prior.weight=0"], "no_prior", "prior.weight=1"),
        (COPIES, [], "copies", "data.instance_images: photos that differ more"),
        (ONE_SCENE, ["train.steps=2000"], "too_long", "train.steps=350"),
        (ONE_SCENE, ["text_encoder.learning_rate=1e-2"], "encoder_rate_too_high", "text_encoder.learning_rate=0.001"),
        (ONE_SCENE, [], "one_scene", "train.steps=175"),
        (BROKEN, [f"{RATE}=4e-3"], "rate_too_high", f"{RATE}=0.001"),
        (BROKEN, [], "broken", "samples.steps=100"),
        (EMPTY, [f"{RATE}=4e-3"], "rate_too_high", f"{RATE}=0.001"),
        (LEAKS, ["prior.weight=0"], "no_prior", "prior.weight=1"),
        (LEAKS, ["train.steps=2000"], "too_long", "train.steps=350"),
        (LEAKS, [], "leaks", "prior.num_images"),
    ],
)
def test_a_symptom_is_explained_by_the_setting_that_is_off(looks, words, name, change):
    (finding,) = findings(patient(*words, looks=ill(**looks)))
    assert finding.name == name
    assert finding.change.startswith(change)
    (symptom,) = symptoms(ill(**looks))
    assert symptom.evidence in finding.evidence[-1]


def test_several_symptoms_of_one_cause_are_one_finding():
    (finding,) = findings(patient(f"{RATE}=3e-2", looks=ill(**NO_LIKENESS, **ONE_SCENE, **BROKEN, **LEAKS)))
    assert finding.name == "rate_too_high"
    assert len(finding.evidence) == 5


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([f"{RATE}=3e-2"], "rate_too_high"),
        ([f"{RATE}=1e-4"], "rate_too_low"),
        ([f"{STEPS}=3500"], "too_long"),
        ([f"{STEPS}=35"], "too_short"),
        (["prior.weight=10"], "strong_prior"),
        (["text_encoder.learning_rate=1e-1"], "encoder_rate_too_high"),
    ],
)
def test_a_setting_that_is_far_off_is_told_without_a_symptom(words, name):
    assert names(patient(*words)) == [name]
    assert names(patient(*words, looks=None)) == [name]


@pytest.mark.parametrize("factor", [1 / 3, 0.5, 2, 3])
def test_settings_near_the_recipe_are_no_finding_whatever_is_wrong(factor):
    """Steps and rate by the same factor, or by opposite ones: what pictures show is then not blamed on them."""
    for steps, rate in ((factor, 1), (1, factor), (factor, 1 / factor)):
        one = patient(f"{STEPS}={round(350 * steps)}", f"{RATE}={1e-3 * rate}", looks=ill(**NO_LIKENESS))
        assert names(one) == ["nothing_helps"]


def test_what_pictures_say_of_a_setting_is_told_too():
    (finding,) = findings(patient(f"{STEPS}=3500"))
    assert "83% of the way" in finding.evidence[-1]
    assert "90%" in finding.evidence[-1]
    assert len(findings(patient(f"{STEPS}=3500", looks=None))[0].evidence) == 1
    assert len(findings(patient(f"{STEPS}=3500", looks=ill(photos=0.52)))[0].evidence) == 1


def test_few_steps_at_a_high_rate_are_as_much_as_the_recipe():
    assert names(patient("train.steps=88", f"{RATE}=4e-3")) == []
    assert names(patient("train.steps=1400", f"{RATE}=2.5e-4", looks=ill(**NO_LIKENESS))) == ["nothing_helps"]


def test_steps_are_too_many_only_if_they_are_for_each_photo_too():
    """Of a hundred photos each is seen twenty times less."""
    many = photos_of(*(scene(seed) for seed in range(100)))
    assert names(patient("train.steps=3500", photos=many)) == []
    assert names(patient("train.steps=350", photos=many)) == []


def test_few_photos_come_with_what_they_explain():
    one = patient(photos=photos_of(scene(0)), looks=ill(**COPIES, **ONE_SCENE))
    (finding,) = findings(one)
    assert finding.name == "few_photos"
    assert len(finding.evidence) == 3
    assert names(patient(photos=photos_of(scene(0)))) == ["few_photos"]


def test_a_run_that_goes_on_is_not_yet_judged_by_its_likeness():
    assert names(patient(steps=100, looks=ill(**NO_LIKENESS))) == ["unfinished"]
    assert names(patient(steps=100)) == []


def test_without_pictures_a_missing_prior_is_told_by_the_settings():
    assert names(patient("prior.weight=0", looks=None)) == ["no_prior"]
    assert names(patient("prior.weight=0")) == []


def test_a_noun_that_fits_no_photo():
    (finding,) = findings(patient("data.class_noun=house", looks=ill(naming=Naming(most=1e-5, instead="alien"))))
    assert (finding.name, finding.change) == ("class_noun", "data.class_noun=alien")
    assert names(patient(looks=ill(naming=Naming(most=0.01, instead="robot")))) == []


def test_what_nobody_measured_shows_nothing():
    nan = float("nan")
    unknown = ill(**dict.fromkeys(("photos", "nearest_photo", "obeyed", "obeyed_before", "class_images"), nan))
    assert symptoms(unknown) == []


def test_likenesses_that_the_tower_cannot_tell_apart_show_nothing():
    """Pictures of the class are as like the photos as these are to each other."""
    close = ill(photos=0.52, subject=0.49, class_after=0.55, class_images=0.6)
    assert names(patient(looks=close)) == []


def test_class_images_that_show_the_subject():
    pictures = [scene(seed) for seed in range(5)]
    same = photos_of(scene(100), pictures[2])
    (finding,) = findings(patient(photos=photos_of(*pictures), class_images=same))
    assert finding.name == "class_images"
    assert finding.evidence == ("1.png is 2.png",)
    assert names(patient(looks=ill(class_images=0.7))) == ["class_images"]


def test_every_symptom_has_causes():
    worst = ill(**NO_LIKENESS, **COPIES, **ONE_SCENE, **BROKEN, **LEAKS)
    assert {symptom.name for symptom in symptoms(worst)} == set(CAUSES)
    assert len(SYMPTOMS) == len(CAUSES)
    assert symptoms(HEALTHY) == []


def test_recipes_are_of_their_kind_and_no_finding_for_themselves():
    for kind, name in RECIPES.items():
        recipe = shipped(name)
        assert recipe.kind == kind
        assert recipe_for(recipe, embedded=False) == recipe
        one = patient(regimen=recipe, recipe=recipe, steps=recipe.steps)
        assert (one.rate, one.shorter, one.longer) == (1, 1, 1)
        assert names(one) == names(replace(one, looks=None)) == []


def test_what_has_no_recipe_is_not_compared():
    """Rates of other optimizers, and of other kinds of training, mean something else."""
    for words in (["optimizer.kind=prodigy", f"{RATE}=1"], ["adapter.kind=full", f"{RATE}=1e-5"]):
        assert names(patient(*words)) == []
        assert names(patient(*words, looks=ill(**NO_LIKENESS))) == ["no_likeness"]
