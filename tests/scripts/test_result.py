# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What personalisation does to the embedded model, judged: the subject is learnt, and the class is kept.

Margins are from the spread of the study (docs/study.md).
"""

import pytest
from study import judge, runs
from study.conditions import Sampling, Training
from study.subjects import drawn

pytestmark = pytest.mark.slow

PRESERVED, FREE = Training(), Training(settings={"prior.weight": 0.0})
UNTRAINED = Training(trained=False)


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """Scores of the pretrained model, and of what the quick start makes of it with and without prior preservation."""
    study = runs.Study(work=tmp_path_factory.mktemp("study"), judge=judge.load())
    for training in (UNTRAINED, PRESERVED, FREE):
        runs.run(study, training, [Sampling()], drawn(), seed=0)
    return {row["training"]: row for row in runs.read_results(study.results)}


def test_the_subject_is_learnt(scores):
    before, after = scores[UNTRAINED.key], scores[PRESERVED.key]
    assert after["fidelity"] > before["fidelity"] + 0.2
    assert after["recognised"] > before["recognised"] + 0.4


def test_prior_preservation_keeps_the_class(scores):
    kept, lost = scores[PRESERVED.key], scores[FREE.key]
    assert kept["drift"] < lost["drift"] - 0.1
    assert kept["leaked"] < lost["leaked"]


def test_prompts_are_still_obeyed(scores):
    assert scores[PRESERVED.key]["prompt"] > scores[UNTRAINED.key]["prompt"] - 0.2
