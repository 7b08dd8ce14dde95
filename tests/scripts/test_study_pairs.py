# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The study of two subjects in one model: its settings, its counts, and what it concludes."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from study import pair_report, pairs, runs, subjects

from dreambooth_jax.checks import check_config
from dreambooth_jax.config.concepts import concepts_of
from dreambooth_jax.prepare.lessons import lesson_prompts

PAIR = [replace(subjects.drawn(), name=name) for name in ("odd", "big")]


def judge_that_says(*said):
    return lambda pictures: SimpleNamespace(subjects=list(said))


def line(condition, pair, *, other, itself=0.9, leaked=0.0):
    """Of pairs.jsonl, with the same shares for both subjects."""
    first, second = pair

    def shares(itself, other):
        return {
            one: {one: itself, beside: other, "neither": 1 - itself - other}
            for one, beside in ((first, second), (second, first))
        }

    return {
        "training": condition.key,
        "pair": list(pair),
        "seed": 0,
        "word": shares(itself, other),
        "class": shares(leaked, leaked),
    }


class TestSettings:
    def test_every_condition_is_a_run_of_two_subjects(self, tmp_path):
        study = runs.Study(work=tmp_path, judge=None)
        for condition in pairs.CONDITIONS:
            config = pairs.prepare(study, condition, PAIR, 3)
            check_config(config)
            odd, big = concepts_of(config)
            assert odd.class_noun == big.class_noun
            assert odd.identifier != big.identifier
            assert odd.weight == big.weight > 0
            assert config.train.seed == 3
            assert len({one.instance_images for one in (odd, big)}) == 2
            assert config.prior.kind == "teacher"

    def test_only_the_last_is_asked_the_other_ones_prompts(self, tmp_path):
        study = runs.Study(work=tmp_path, judge=None)
        configs = [pairs.prepare(study, condition, PAIR, 0) for condition in pairs.CONDITIONS]
        alone, both = ([lesson_prompts(config, one) for one in concepts_of(config)] for config in configs)
        assert alone == [("a toy",), ("a toy",)]
        assert both == [("a toy", "a zwx toy"), ("a toy", "a sks toy")]

    def test_conditions_are_told_apart_and_claims_name_them(self):
        names = [condition.name for condition in pairs.CONDITIONS]
        assert len({condition.key for condition in pairs.CONDITIONS}) == len(set(names)) == len(names)
        for claim in pairs.CLAIMS:
            assert {claim.more, claim.less} <= set(names)
            assert claim.metric in pairs.SEEN

    def test_pairs_are_of_subjects_that_there_are(self):
        assert {name for pair in pairs.PAIRS for name in pair} <= {*subjects.CLASS_NOUNS, subjects.DRAWN}


class TestCounts:
    def test_every_picture_is_someone_or_neither(self):
        pictures = np.zeros((4, 64, 64, 3), np.uint8)
        found = pairs.seen(judge_that_says("odd", "big", "robot", "none of them"), pictures, ["odd", "big"])
        assert found == {"odd": 0.25, "big": 0.25, "neither": 0.5}

    def test_itself_and_the_other_depend_on_who_was_asked_for(self):
        shares = {"odd": 0.7, "big": 0.2, "neither": 0.1}
        assert pairs.of_seen(shares, "odd") == {"itself": 0.7, "other": 0.2, "neither": 0.1}
        assert pairs.of_seen(shares, "big") == {"itself": 0.2, "other": 0.7, "neither": 0.1}

    def test_a_row_is_a_pair(self):
        one = pairs.CONDITIONS[0]
        lines = [line(one, ("odd", "big"), other=0.1), line(pairs.CONDITIONS[1], ("odd", "big"), other=0.3)]
        (row,) = pairs.rows_of(one, lines)
        assert row == {"subject": "odd + big", "seed": 0, "itself": 0.9, "other": 0.1, "neither": pytest.approx(0)}


class TestReport:
    def lines(self, kept_apart):
        draw = np.random.default_rng(0)
        return [
            line(condition, pair, other=float(np.clip(other + 0.02 * draw.normal(), 0, 1)), itself=0.5)
            for condition, other in zip(pairs.CONDITIONS, (0.3, kept_apart))
            for pair in pairs.PAIRS
        ]

    @pytest.mark.parametrize(("kept_apart", "said"), [(0.05, "Holds"), (0.45, "Does not hold"), (0.3, "Open")])
    def test_whether_lessons_keep_subjects_apart(self, kept_apart, said):
        text = pair_report.section(self.lines(kept_apart))
        assert f"fewer are taken for the other. | **{said}** |" in text
        assert text.count("| poodle | parrot | 0.50 |") == len(pairs.CONDITIONS)
        assert "Nobody is taken" not in text

    def test_where_nobody_is_taken_for_another_it_says_so(self):
        lines = [line(condition, pair, other=0.0) for condition in pairs.CONDITIONS for pair in pairs.PAIRS]
        assert "Nobody is taken for the other" in pair_report.section(lines)

    def test_conditions_are_compared_on_the_same_pairs(self):
        lines = self.lines(0.1)[:-1]  # the last pair misses a condition
        assert {tuple(one["pair"]) for one in pair_report.comparable(lines)} == set(pairs.PAIRS[:-1])
        assert pair_report.section(lines[:4]) == ""
