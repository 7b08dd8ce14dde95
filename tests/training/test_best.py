# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Which step is the best by a product of scores, and when scores say that a run overfits."""

import json

import numpy as np
import pytest

from dreambooth_jax.checks import check_config
from dreambooth_jax.config import load_config
from dreambooth_jax.config.scores import SCORES, VAL_LOSS, factors_of, measured_scores
from dreambooth_jax.errors import InputError
from dreambooth_jax.evaluation.grid_scores import GridSubject, grid_scores, key_of
from dreambooth_jax.evaluation.judge import NOBODY, Judge, Verdicts
from dreambooth_jax.evaluation.scores import MEASURES, Towers
from dreambooth_jax.training.best import Best, best_from
from dreambooth_jax.training.score_history import ScoreHistory

STEPS = range(1, 9)
RISING = [0.2, 0.4, 0.6, 0.7, 0.75, 0.8, 0.82, 0.83]
FALLING = [0.9, 0.88, 0.85, 0.8, 0.6, 0.4, 0.3, 0.2]


def best_of(factors, **scores):
    best = Best(factors=factors)
    for number, step in enumerate(STEPS):
        best.look(step, {name: values[number] for name, values in scores.items()})
    return best.step


def test_a_run_that_overfits_has_its_best_before_the_end():
    assert best_of(("fidelity", "scene"), fidelity=RISING, scene=FALLING) == 4
    assert best_of(("fidelity",), fidelity=RISING) == 8
    assert best_of(("scene",), scene=FALLING) == 1


def test_of_equals_the_first_is_the_best_and_what_is_not_measured_is_none():
    assert best_of(("dino",), dino=[0.5] * 8) == 1
    best = Best(factors=("dino", "clip_t"))
    best.look(3, {"dino": 0.9})
    assert (best.step, Best(factors=()).meta) == (-1, {})


@pytest.mark.parametrize("name", [name for name, score in SCORES.items() if score.better == "lower"])
def test_where_less_is_better_the_least_is_the_best(name):
    values = np.random.default_rng(0).permutation(np.linspace(0.1, 0.9, len(STEPS))).tolist()
    assert best_of((name,), **{name: values}) == STEPS[int(np.argmin(values))]
    both = {name: values, "dino": [0.5] * len(STEPS)}
    assert best_of((name, "dino"), **both) == STEPS[int(np.argmin(values))]


def test_two_cosines_below_0_are_not_a_good_step():
    best = Best(factors=("dino", "clip_t"))
    best.look(1, {"dino": 0.1, "clip_t": 0.1})
    best.look(2, {"dino": -0.9, "clip_t": -0.9})
    assert best.step == 1


@pytest.mark.parametrize("cut", range(len(STEPS)))
def test_the_best_so_far_goes_through_a_checkpoint_bit_for_bit(cut):
    r = np.random.default_rng(cut)
    scores = [{"dino": float(np.float32(r.random())), VAL_LOSS: float(r.random())} for _ in STEPS]
    whole, first = Best(factors=("dino", VAL_LOSS)), Best(factors=("dino", VAL_LOSS))
    for step, one in zip(STEPS, scores):
        whole.look(step, one)
    for step, one in list(zip(STEPS, scores))[:cut]:
        first.look(step, one)
    resumed = best_from(("dino", VAL_LOSS), json.loads(json.dumps(first.meta)))
    for step, one in list(zip(STEPS, scores))[cut:]:
        resumed.look(step, one)
    assert resumed == whole
    assert whole.value == pytest.approx(max(one["dino"] / one[VAL_LOSS] for one in scores))


def test_another_product_begins_anew_and_runs_of_before_go_on():
    known = {"best": {"of": ["dino"], "step": 4, "value": 0.5}}
    assert best_from(("dino",), known).step == 4
    assert best_from(("clip_t",), known).step == -1
    earlier = {"config": {"checkpoint": {"keep_best": True}}, "validation": [[0, 0.1], [2, 0.5], [4, 0.3], [6, 0.4]]}
    assert best_from((VAL_LOSS,), earlier).step == 4
    assert best_from((VAL_LOSS,), {**earlier, "config": {}}).step == -1


def history(likeness, prompt):
    return ScoreHistory(scores=[(step, {"dino": a, "clip_t": b}) for step, a, b in zip(STEPS, likeness, prompt)])


@pytest.mark.parametrize(
    ("likeness", "prompt", "warns"),
    [
        (RISING, FALLING, True),
        (RISING, [0.9] * 8, False),
        (RISING, [0.9, 0.88, 0.87, 0.87, 0.86, 0.86, 0.85, 0.85], False),  # of no weight
        (FALLING, FALLING, False),  # a model that forgets all
        (RISING, FALLING[::-1], False),
        (RISING, [0.9, 0.88, 0.85, 0.8, 0.6, 0.4, 0.9, 0.2], False),  # up and down
        (RISING[:3], FALLING[5:], False),  # too early to say
    ],
)
def test_likeness_at_the_cost_of_the_prompt_is_warned_of_once_with_its_numbers(likeness, prompt, warns):
    one = history(likeness, prompt)
    found = one.overfits()
    assert bool(found) is warns
    if found:
        for said in ("clip_t was 0.9 at step 1 and is 0.2 at step 8", "dino rose from 0.2 to 0.83", "prior.weight"):
            assert said in found
        assert one.overfits() is None


def test_names_are_those_of_the_measures():
    kinds = {"prompts": "subject", "class_prompts": "class"}
    of_grids = {key_of(one.name): one for one in MEASURES if one.kind in kinds.values()}
    assert of_grids.keys() == SCORES.keys() - {VAL_LOSS}
    for name, one in of_grids.items():
        score = SCORES[name]
        said = (score.tower, kinds[score.of], score.better, score.of_pairs)
        assert said == (one.tower, one.kind, one.better, one.of_pairs)


def config(*settings):
    return load_config(None, ["data.class_noun=dog", *settings])


DINO = ("evaluate.every=2", "evaluate.dino=x")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["evaluate.every=5"], "evaluate.every is 5, but there is nothing to measure with: set evaluate.dino"),
        ([*DINO, "samples.prompts=[]", "samples.class_prompts=[]", "samples.every=0"], "but both are empty"),
        (["checkpoint.keep_best=dino"], "dino needs evaluate.every, evaluate.dino, .*; this run measures none"),
        ([*DINO, "checkpoint.keep_best=dino*clip_t"], "clip_t needs .*evaluate.clip.*; this run measures dino, pres"),
        ([*DINO, "checkpoint.keep_best=dinno"], "'dinno' is no score: there are dino, clip_i, clip_t"),
        ([*DINO, "checkpoint.keep_best=dino*"], "empty is no score"),
        ([*DINO, "checkpoint.keep_best=dino*val_loss"], "val_loss needs a validation loss"),
        (["export.weights=best"], "nothing says what is best: set checkpoint.keep_best"),
        ([*DINO, "samples.class_prompts=[]", "checkpoint.keep_best=pres"], "pres needs .*samples.class_prompts"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(settings, message):
    with pytest.raises(InputError, match=message):
        check_config(config(*settings))


def test_what_is_measured_is_what_there_are_towers_and_pictures_for():
    assert measured_scores(config()) == []
    assert measured_scores(config("evaluate.every=2", "model.path=embedded", "samples.num_images=1")) == [
        *("recognised", "fidelity", "scene", "leaked", "class_fidelity"),
    ]
    check_config(config(*DINO, "checkpoint.keep_best= dino * pres", "export.weights=best"))
    assert factors_of(" dino * pres") == ("dino", "pres")


def test_a_score_is_the_mean_over_subjects_prompts_and_pictures():
    """With a judge that sees one number in a picture: the cosine with photos of brightness 0."""

    class Angles(Judge):
        def __call__(self, pictures, *, size=64):
            angle = pictures[:, 0, 0, 0].astype(float) / 100
            features = np.stack([np.cos(angle), np.sin(angle)], axis=1)
            return Verdicts(["dog"] * len(angle), [NOBODY] * len(angle), features, np.ones((len(angle), 1)))

    judge = Angles(nouns=[], subjects=[], params={})
    values = ([0, 50], [100, 20], [30, 30])
    grid = [np.stack([np.full((64, 64, 3), value, np.uint8) for value in row]) for row in values]
    photo = np.zeros((64, 64, 3), np.uint8)
    subjects = [
        GridSubject(photos=[photo], rows={"subject": [(0, "a dog"), (1, "a dog here")], "class": [(2, "a dog")]}),
        GridSubject(photos=[photo], rows={"subject": [(1, "a cat")]}),
    ]
    found = grid_scores(Towers(judge=judge), subjects, grid)
    rows = [(1 + np.cos(0.5)) / 2, (np.cos(1) + np.cos(0.2)) / 2, np.cos(0.3)]
    assert found["fidelity"] == pytest.approx(((rows[0] + rows[1]) / 2 + rows[1]) / 2)
    assert found["class_fidelity"] == pytest.approx(rows[2])
    assert "recognised" not in found  # the photos are of nobody
