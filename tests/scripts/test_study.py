# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The study: its subjects, its judge, its scores, and what it concludes."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from embedded.compose import Composer, Grammar
from embedded.fit import Stage
from embedded.sprites import read_sprites
from PIL import Image
from study import claims, figures, judge_training, report, runs, scores, subjects, together
from study.conditions import Claim, Condition, Experiment, Sampling, Training
from study.experiments import EXPERIMENTS

from dreambooth_jax.config import load_config, save_config
from dreambooth_jax.evaluation import judge as judges
from tests.scripts import sprites

NOUNS, NAMES = ["alien", "ball", "box"], ["alien", "robot"]


@pytest.fixture(scope="module")
def judge():
    own = judges.network(NOUNS, NAMES)
    shapes = jax.eval_shape(own.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda s: jnp.asarray(0.2 * draw.normal(size=s.shape), s.dtype), shapes)
    return judges.Judge(nouns=NOUNS, subjects=NAMES, params=params)


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3)).astype(np.uint8)


class TestJudge:
    def test_what_is_written_judges_the_same(self, judge, tmp_path):
        judge.save(tmp_path)
        again, some = judges.load(tmp_path), pictures(5)
        assert again(some).nouns == judge(some).nouns
        np.testing.assert_allclose(again(some).features, judge(some).features, atol=5e-3)

    def test_a_verdict_does_not_depend_on_its_neighbours(self, judge):
        some = pictures(5)
        whole, one = judge(some, size=4), judge(some[3:4], size=4)
        assert whole.subjects[3:4] == one.subjects
        np.testing.assert_allclose(whole.features[3:4], one.features, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(whole.features, axis=1), 1.0, rtol=1e-6)

    @pytest.mark.slow
    def test_it_learns_from_a_folder_of_sprites(self, tmp_path, monkeypatch):
        folder = sprites.write(tmp_path / "sprites", sprites.row("ball", "flat", "red") | {"name": "odd ball"})
        monkeypatch.setattr(subjects, "CLASS_NOUNS", {"robot": "box"})
        settings = judge_training.JudgeSettings(
            sprites=folder,
            work=tmp_path / "work",
            output=tmp_path / "judge",
            count=24,
            workers=1,
            stage=Stage(steps=2, batch_size=8, learning_rate=1e-3, warmup=1),
        )
        monkeypatch.setattr(judge_training, "_VALIDATED", 16)
        monkeypatch.setattr(judge_training, "_COMMON", 2)
        monkeypatch.setattr(judge_training, "_is_kept_back", lambda sprite: sprite.name == "odd ball")
        made = judge_training.train_judge(settings)
        assert made.subjects == ["alien", "robot"]
        assert made.nouns == ["alien", "ball", "box"]
        assert set(judges.load(tmp_path / "judge").measured) == set(made.measured)

    def test_the_shipped_one_knows_the_creature_of_the_quick_start(self):
        shipped, creature = judges.load(), subjects.drawn()
        said = shipped(np.stack([creature.picture(i)[0] for i in range(24)])).subjects
        assert said.count(subjects.DRAWN) >= 20
        assert set(shipped.subjects) == {*subjects.CLASS_NOUNS, subjects.DRAWN}

    def test_a_worn_picture_shows_the_same_but_otherwise(self):
        picture, _ = subjects.drawn().picture(0)
        one, again, other = (judge_training.worn(picture, np.random.default_rng(seed)) for seed in (0, 0, 1))
        assert (one.shape, one.dtype) == (picture.shape, picture.dtype)
        np.testing.assert_array_equal(one, again)
        assert (one != other).mean() > 0.9
        assert np.corrcoef(one.ravel(), picture.ravel())[0, 1] > 0.6

    def test_a_plain_picture_stays_plain_where_it_is_bent(self):
        plain = Image.new("RGB", (64, 64), (90, 140, 200))
        bent = judge_training._bent(plain, np.random.default_rng(2))
        np.testing.assert_array_equal(np.asarray(bent), np.asarray(plain))  # no black from outside of the picture

    def test_labels_are_what_is_shown(self, sprite_folder):
        _, _, own = judge_training.drawings(sprite_folder, [subjects.drawn()])
        alien = next(sprite for sprite in own if sprite.subject == "alien")
        assert judge_training.label(alien, NOUNS, NAMES) == (0, 0)
        other = read_sprites(sprite_folder, nouns=["ball"])[0]
        assert judge_training.label(other, NOUNS, NAMES) == (1, 2)  # nobody comes last


def test_a_composer_shows_one_thing_and_says_which(sprite_folder):
    composer = Composer(read_sprites(sprite_folder), Grammar(size=32), seed=0)
    (picture, sprite), (again, same) = composer.alone(3), composer.alone(3)
    assert sprite == same
    np.testing.assert_array_equal(picture, again)
    assert len({composer.alone(i)[1].noun for i in range(20)}) == 2


class TestSubjects:
    def test_held_out_sprites_become_subjects(self, sprite_folder):
        (robot,) = subjects.held_out(sprite_folder)
        assert (robot.name, robot.class_noun) == ("robot", "robot")

    def test_a_confirmation_has_one_other_drawing_of_each_concept(self, tmp_path):
        others = [
            sprites.row("box", style, "blue", split="heldout") | {"subject": "", "name": name}
            for style, name in (("pastel", "big box"), ("blob", "big box"), ("flat", "odd box"))
        ]
        folder = sprites.write(tmp_path / "sprites", *others)
        assert [one.name for one in subjects.confirming(folder)] == ["blob_big_box", "flat_odd_box"]
        assert {one.class_noun for one in subjects.confirming(folder)} == {"box"}

    def test_instances_differ_and_have_captions(self, tmp_path):
        subjects.write_instances(subjects.drawn(), tmp_path, count=4)
        captions = [(tmp_path / f"{i}.txt").read_text() for i in range(4)]
        assert all(text.startswith("a {identifier} {class_noun} ") for text in captions)
        assert len({(tmp_path / f"{i}.png").read_bytes() for i in range(4)}) == 4

    def test_the_first_pictures_do_not_depend_on_how_many_follow(self):
        one, again = subjects.drawn().picture(2), subjects.drawn().picture(2)
        np.testing.assert_array_equal(one[0], again[0])
        assert one[1] == again[1]


class TestConditions:
    def test_names_are_unique_and_claims_name_them(self):
        for experiment in EXPERIMENTS:
            names = [condition.name for condition in experiment.conditions]
            assert len(set(names)) == len(names)
            assert experiment.baseline in ("", *names)
            assert "," not in experiment.title  # --experiments A,B
            for claim in experiment.claims:
                assert {claim.more, claim.less} <= set(names)
                assert claim.metric in scores.METRICS

    def test_every_condition_is_a_config(self, judge, tmp_path):
        study = runs.Study(work=tmp_path, judge=judge)
        for training, _, seed, samplings in runs.plan([subjects.drawn()], seeds=1):
            shown, config = runs.prepare(study, training, subjects.drawn(), seed=seed + 2)
            assert len(shown) == training.instances
            assert config.train.seed == seed + 2
            assert config.prior.class_prompt in ("an {class_noun}", "a flat {class_noun}")
            assert len(set(samplings)) == len(samplings)

    def test_a_condition_that_changes_nothing_is_the_usual_run(self, judge, tmp_path):
        study = runs.Study(work=tmp_path, judge=judge)
        jobs = runs.plan([subjects.drawn()], seeds=1)
        configs = [runs.prepare(study, job.training, job.subject, job.seed)[1] for job in jobs if job.training.trained]
        told_apart = [replace(config, run_dir="") for config in configs]
        assert all(one not in told_apart[:i] for i, one in enumerate(told_apart))

    def test_each_training_is_done_once(self):
        some = [replace(subjects.drawn(), name=name) for name in "abcd"]
        jobs = runs.plan(some, seeds=3)
        keys = [(job.training.key, job.subject.name, job.seed) for job in jobs]
        assert len(set(keys)) == len(keys)
        usual = {(job.subject.name, job.seed): job.samplings for job in jobs if job.training == Training()}
        assert len(usual) == 12
        assert len(usual["a", 0]) > len(usual["a", 1]) == 1  # other samplings where other experiments look
        assert {seed for name, seed in usual if len(usual[name, seed]) > 1} == {0, 1, 2}
        assert len(runs.plan(some, seeds=3, titles=["Prior preservation"])) == 4 * 4
        assert len(runs.plan(some, seeds=3, titles=["Prior preservation"], crossed=True)) == 4 * 4 * 3
        ways = [job.training for job in runs.plan(some, seeds=3, titles=["Ways to personalise"])]
        assert {training.has_members: ways.count(training) for training in ways} == {True: 4 * 3, False: 4}


@pytest.mark.slow
def test_those_of_one_training_are_trained_together_and_once(judge, tmp_path, monkeypatch):
    """Four of LoRA, of which three fit in a program, and one that is fully tuned."""
    short = {"train.steps": 2, "prior.num_images": 2, "prior.steps": 1, "data.resolution": 32}
    lora = Training(settings=short | {"adapter.kind": "lora", "adapter.rank": 2}, instances=2)
    some = [replace(subjects.drawn(), name=name) for name in "ab"]
    jobs = [runs.Job(lora, subject, seed, [Sampling()]) for subject in some for seed in (0, 1)]
    jobs.append(runs.Job(Training(settings=short, instances=2), some[0], 0, [Sampling()]))
    study, judged = runs.Study(work=tmp_path, judge=judge), {}

    def conclude(study, trial, took):
        job = trial.job
        judged[trial.config.run_dir] = took, sorted(path.name for path in Path(trial.config.run_dir).glob("*model*"))
        line = runs.identity(job.training, job.samplings[0], job.subject.name, job.seed)
        with study.results.open("a") as file:
            file.write(json.dumps(line) + "\n")

    monkeypatch.setattr(together, "conclude", conclude)
    monkeypatch.setattr(runs, "conclude", conclude)
    monkeypatch.setattr(together, "AT_ONCE", 3)
    assert list(together.run_all(study, jobs)) == [0, 3, 1, 0, 1]
    assert [took.get("together") for took, _ in judged.values()] == [3, 3, 3, 1, None]
    assert [folders for _, folders in judged.values()] == [[], [], [], [], ["model"]]
    assert list(together.run_all(study, jobs)) == [4, 1], "nothing is left"


class TestScores:
    def test_features_like_the_instances_are_faithful(self):
        rows = np.eye(3, dtype=np.float32)
        assert scores.similarity(rows[:1], rows[:1]) == 1
        assert scores.similarity(rows[:1], rows[1:]) == 0

    def test_equal_pictures_are_not_diverse(self):
        rows = np.eye(2, dtype=np.float32)
        assert scores.diversity(rows[[0, 0, 0]]) == 0
        assert scores.diversity(rows) == 1
        assert scores.diversity(rows[[0, 0, 1]]) == pytest.approx(2 / 3)

    def test_pictures_of_the_background_asked_for_are_obedient(self, judge):
        asked = scores.prompts("a sks alien", "alien")
        assert all(
            "sks" not in prompt and prompt.startswith("an alien") for prompt in (*asked.of_class, *asked.elsewhere)
        )
        composer = np.stack([subjects.drawn().picture(i)[0] for i in range(len(asked.identifier))])
        found = scores.score(
            judge,
            subject="alien",
            class_noun="alien",
            asked=asked,
            instances=composer[:5],
            identifier_pictures=composer,
            class_pictures=composer,
            elsewhere_pictures=composer,
        )
        assert set(found) == set(scores.METRICS)
        assert found["drift"] == pytest.approx(found["fidelity"])
        assert 0 <= found["prompt"] < 0.5  # backgrounds at random


def test_what_a_run_takes_and_weighs(tmp_path, monkeypatch):
    """The processor's time of a hundred steps is four times that of the 25 between the first line and the last,
    however long the first step compiled.
    """
    save_config(tmp_path / "config.yaml", load_config(None, ["train.steps=100"]))
    times = iter([1000.0, 1010.0, 1012.5])
    monkeypatch.setattr(runs.time, "process_time", lambda: next(times))
    clock = runs.Clock()
    (tmp_path / "lora.safetensors").write_bytes(bytes(1_500_000))
    assert runs.costs(tmp_path, clock) == {"megabytes": 1.5}, "of a run that was finished before"
    for step in (75, 90, 100):
        clock(step, {})
    assert runs.costs(tmp_path, clock) == {"seconds": pytest.approx(50.0), "megabytes": 1.5}
    (tmp_path / "model" / "unet").mkdir(parents=True)
    (tmp_path / "model" / "unet" / "a.safetensors").write_bytes(bytes(500_000))
    assert runs.costs(tmp_path, clock)["megabytes"] == 2.0


class TestReport:
    EXPERIMENT = Experiment(
        title="Of a test",
        conditions=tuple(
            Condition(name=name, training=Training(settings={"train.steps": i})) for i, name in enumerate("AB")
        ),
        claims=(Claim("A is more.", "a test", "fidelity", "A", "B"),),
    )

    def rows(self, more, less, noise=0.01):
        draw = np.random.default_rng(0)
        return [
            runs.identity(condition.training, Sampling(), subject, seed)
            | {metric: value + noise * draw.normal() for metric in scores.METRICS}
            for condition, value in zip(self.EXPERIMENT.conditions, (more, less))
            for seed, subject in enumerate(("robot", "poodle", "parrot", "alien"))
        ]

    def test_what_training_costs_stands_in_the_table_that_asks_for_it(self):
        rows = [row | {"seconds": 20.0, "seconds_together": 9.0, "megabytes": 1.25} for row in self.rows(0.9, 0.5)]
        for costs in (False, True):
            experiment = replace(self.EXPERIMENT, costs=costs)
            text = report.section(experiment, report.comparable(experiment, rows))
            assert ("| seconds | seconds together | megabytes |" in text) == costs
            assert ("| 20.00 ± 0.00 | 9.00 ± 0.00 | 1.25 ± 0.00 |" in text) == costs
            old = report.section(experiment, report.comparable(experiment, self.rows(0.9, 0.5)))
            assert ("| - | - | - |" in old) == costs, "of rows that were measured before costs were"

    def test_what_differs_from_the_baseline_has_an_interval(self):
        rows = self.rows(0.9, 0.5)
        rows = [row | ({"seconds": 7.0 + row["seed"]} if row["subject"] != "robot" else {}) for row in rows]
        (line,) = report.against("B", report.comparable(self.EXPERIMENT, rows))[3:]
        assert line.startswith("| A | **+0.40 ± 0.0")
        assert line.endswith("| +0.00 ± 0.00 |"), "the three subjects that have both"
        bare = report.against("B", report.comparable(self.EXPERIMENT, self.rows(0.9, 0.5)))
        assert bare[-1].endswith("| - |"), "of rows that were measured before costs were"

    @pytest.mark.parametrize(
        ("change", "fit"),
        [
            ({}, ["A"]),
            ({"recognised": 0.7}, []),
            ({"leaked": 0.2}, []),
            ({"seconds": 30.0}, []),
            ({"seconds": None}, []),
        ],
    )
    def test_fit_for_the_quick_start_is_what_does_as_well_in_less_time(self, change, fit):
        good = {"recognised": 0.85, "leaked": 0.05, "seconds": 10.0, "subject": "robot", "seed": 0}
        row = {key: value for key, value in (good | change).items() if value is not None}
        assert report.fit_for_the_quick_start("B", {"A": [row], "B": [good | {"seconds": 20.0}]}) == fit

    @pytest.mark.parametrize(
        ("more", "less", "noise", "said"),
        [(0.9, 0.5, 0.01, "Holds"), (0.5, 0.9, 0.01, "Does not hold"), (0.7, 0.71, 0.3, "Open")],
    )
    def test_claims_are_judged_subject_by_subject(self, more, less, noise, said):
        rows = self.rows(more, less, noise)
        found = {condition.name: report.rows_of(condition, rows) for condition in self.EXPERIMENT.conditions}
        assert f"**{said}**" in claims.concluded(self.EXPERIMENT.claims[0], found)

    def test_rows_of_a_table_are_of_the_same_subjects(self):
        rows = self.rows(0.9, 0.5)[:-1]  # one subject has A alone
        found = report.comparable(self.EXPERIMENT, rows)
        assert [row["subject"] for row in found["A"]] == [row["subject"] for row in found["B"]]
        assert len(found["A"]) == 3

    def test_many_seeds_of_two_subjects_say_nothing(self):
        two = [row for row in self.rows(0.9, 0.5) if row["seed"] < 2]
        rows = [row | {"seed": seed} for row in two for seed in range(5)]
        found = {condition.name: report.rows_of(condition, rows) for condition in self.EXPERIMENT.conditions}
        assert "**Open**" in claims.concluded(self.EXPERIMENT.claims[0], found)

    @pytest.mark.parametrize("of_subject", [0.0, 1.0])
    def test_nothing_there_is_said_rarely(self, of_subject):
        """Nor if the seeds of a subject agree with each other, as they do."""
        draw = np.random.default_rng(0)

        def rows():
            fond = of_subject * draw.normal(size=5)
            return [
                {"subject": subject, "seed": seed, "fidelity": fond[subject] + draw.normal()}
                for subject in range(5)
                for seed in range(4)
            ]

        said = [
            claims.verdict(*claims.compare(self.EXPERIMENT.claims[0], {"A": rows(), "B": rows()})[:2])
            for _ in range(400)
        ]
        assert said.count("Open") > 0.92 * len(said)

    def test_it_has_what_is_there(self, judge, tmp_path, monkeypatch):
        pytest.importorskip("matplotlib")
        other = Condition(name="A", training=Training(instances=3))
        missing = replace(self.EXPERIMENT, title="Missing", conditions=(other,))
        monkeypatch.setattr(report, "EXPERIMENTS", (self.EXPERIMENT, missing))
        measured = {
            "class_right_on_unseen_drawings": 0.5,
            "classes": 3,
            "subject_right_in_unseen_scenes": 1.0,
            "taken_for_a_subject": 0.0,
        }
        study = runs.Study(work=tmp_path / "work", judge=replace(judge, measured=measured))
        study.work.mkdir()
        study.results.write_text("".join(json.dumps(row) + "\n" for row in self.rows(0.9, 0.5)))
        for condition in self.EXPERIMENT.conditions:
            strip = study.strip(condition.training, condition.sampling, 1)
            figures.save_strip(strip, own=pictures(scores.PICTURES // 2), of_class=pictures(scores.PICTURES // 2))
        report.write(tmp_path, study)
        text = (tmp_path / "study.md").read_text()
        assert "## Of a test" in text
        assert "Missing" not in text
        assert "| A is more. | a test | **Holds** |" in text
        for name in ("of_a_test", "of_a_test_pictures"):
            assert f"(study/{name}.png)" in text
            assert (tmp_path / "study" / f"{name}.png").stat().st_size > 5_000

    def test_pictures_that_are_missing_hide_no_others_where_there_is_a_baseline(self, judge, tmp_path):
        third = Condition(name="C", training=Training(settings={"train.steps": 7}))
        experiment = replace(self.EXPERIMENT, conditions=(*self.EXPERIMENT.conditions, third))
        study = runs.Study(work=tmp_path, judge=judge)
        files = {one.name: study.strip(one.training, one.sampling, 1) for one in experiment.conditions[:2]}
        for file in files.values():
            figures.save_strip(file, own=pictures(32), of_class=pictures(16))
        assert report.strips_of(experiment, study, seeds=[0, 1]) == {}
        assert report.strips_of(replace(experiment, baseline="B"), study, seeds=[0, 1]) == files
        assert report.strips_of(replace(experiment, baseline="C"), study, seeds=[0, 1]) == {}

    def test_a_confirmation_stands_beside_the_study(self, judge, tmp_path):
        measured = {
            "class_right_on_unseen_drawings": 0.5,
            "subject_right_in_unseen_scenes": 0.987,
            "taken_for_a_subject": 0.0,
        }
        study = runs.Study(work=tmp_path, judge=replace(judge, measured=measured))
        assert report.confirmed(study, self.EXPERIMENT) == ""
        usual = runs.identity(Training(), Sampling(), "blob_box", 0)
        rows = [*self.rows(0.9, 0.5), dict.fromkeys(scores.METRICS, 0.25) | usual]
        study.results.write_text("".join(json.dumps(row) + "\n" for row in rows))
        text = report.confirmed(study, self.EXPERIMENT)
        assert "| A | 4 | 0.9" in text
        assert "| blob box | 1 | 0.25" in text
        assert "99%" in text

    def test_each_subject_has_a_line(self):
        rows = [
            row | runs.identity(Training(), Sampling(), name, 0)
            for name in ("teddy_bear", "poodle")
            for row in self.rows(0.9, 0.5)[:1]
        ]
        table = report.by_subject(rows).splitlines()
        assert [line.split("|")[1].strip() for line in table if line.startswith("| ")][1:] == ["poodle", "teddy bear"]
