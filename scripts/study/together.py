# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Trainings that differ in subject and seed alone, by one program: the steps of up to nine are taken at once.

Sampled and judged they are one by one, as those that are trained alone. Groups in progress are in ``groups/``.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from dreambooth_jax.members import Member, groups, shares_a_program
from dreambooth_jax.trainer.members import run_group

from .runs import STOPPED, Clock, Job, Study, Trial, begin, conclude, megabytes, run

AT_ONCE = 9
"""Most that are trained by one program, as many as there are subjects."""


def run_all(study: Study, jobs: Sequence[Job]) -> Iterator[int]:
    """Do what is missing of all jobs, those of one training together where its method has members.

    Yields:
        How many were done since the last time.

    Raises:
        SystemExit: after a signal, and if the loss of one is not finite; what was done stays.
    """
    for same in _of_one_training(jobs):
        trials = {Path(trial.config.run_dir).name: trial for job in same if (trial := begin(study, job))}
        yield len(same) - len(trials)
        members = [
            Member(name=name, config=trial.config) for name, trial in trials.items() if trial.job.training.trained
        ]
        joined = {member.name for member in members if shares_a_program(member.config)}
        for group in groups([member for member in members if member.name in joined]):
            for first in range(0, len(group), AT_ONCE):
                part = group[first : first + AT_ONCE]
                _run_group(study, part, [trials[member.name] for member in part])
                yield len(part)
        for name, trial in trials.items():
            if name not in joined:
                run(study, trial.job)
                jax.clear_caches()  # each run's own programs, which only it uses, are kept until then
                yield 1


def _of_one_training(jobs: Sequence[Job]) -> list[list[Job]]:
    found: dict[str, list[Job]] = {}
    for job in jobs:
        found.setdefault(job.training.key, []).append(job)
    return list(found.values())


def _run_group(study: Study, members: Sequence[Member], trials: Sequence[Trial]) -> None:
    clock, first = Clock(), members[0].name

    def listen(name: str, step: int, values: dict[str, float]) -> None:
        if name == first:
            clock(step, values)

    outcomes = run_group(members, study.work / "groups", listeners=[listen])
    if not all(outcome.result.finished or outcome.stopped for outcome in outcomes):
        raise SystemExit(STOPPED)
    took: dict[str, float] = {"together": len(members)}
    if len(clock.read) > 1:
        took["seconds_together"] = clock.seconds(members[0].config.train.steps) / len(members)
    for trial, outcome in zip(trials, outcomes):
        if not outcome.stopped:
            conclude(study, trial, took | {"megabytes": megabytes(Path(trial.config.run_dir))})
    jax.clear_caches()
    if stopped := [f"{outcome.name}: {outcome.stopped}" for outcome in outcomes if outcome.stopped]:
        raise SystemExit("; ".join(stopped))
