#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Measure what DreamBooth does to the embedded model: docs/study.md, its tables and its figures.

    python scripts/dreambooth_study.py --sprites SPRITES --work WORK                     # everything
    python scripts/dreambooth_study.py --sprites SPRITES --work WORK --subjects poodle,parrot \\
        --experiments "Prior preservation"                                               # a part of it
    python scripts/dreambooth_study.py --sprites SPRITES --work WORK --pairs             # only two in one model
    python scripts/dreambooth_study.py --work WORK --report_only                         # the report of what is there

When all settings are final, the first experiment once more, with subjects that nothing was chosen for and a judge of
their own:

    python scripts/train_judge.py --sprites SPRITES --confirming true --work JUDGE --output WORK/confirmation/judge
    python scripts/dreambooth_study.py --sprites SPRITES --work WORK --confirm --seeds 1

It can be stopped at any time: the same command goes on. Commands for different subjects can run side by side.
"""

import argparse
import logging
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import jax
from study import pairs, report, subjects
from study.experiments import EXPERIMENTS
from study.runs import Study, plan
from study.together import run_all
from tqdm import tqdm

from dreambooth_jax.compilation_cache import keep_compiled
from dreambooth_jax.evaluation import judge

DOCS = Path(__file__).parents[1] / "docs"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """From the command line."""
    titles = [experiment.title for experiment in EXPERIMENTS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sprites", type=Path, help="folder with sprites.parquet")
    parser.add_argument("--work", type=Path, required=True, help="folder for results and runs in progress")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where study.md goes")
    parser.add_argument("--model", default="embedded", help="model folder")
    parser.add_argument("--judge", type=Path, default=judge.SHIPPED, help="the judge's folder")
    parser.add_argument("--subjects", default="", help=f"of {','.join(subjects.CLASS_NOUNS)},{subjects.DRAWN}; or all")
    parser.add_argument("--experiments", default="", help=f"of {', '.join(titles)}; separated by commas, or all")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--crossed", action="store_true", help="every subject with every seed in all experiments")
    parser.add_argument("--confirm", action="store_true", help="only the first experiment, with the other subjects")
    parser.add_argument("--pairs", action="store_true", help="only two subjects in one model")
    parser.add_argument("--report_only", action="store_true", help="train nothing")
    options = parser.parse_args(arguments)
    options.experiments = [title.strip() for title in options.experiments.split(",") if title]
    if unknown := set(options.experiments) - set(titles):
        parser.error(f"no such experiment: {', '.join(unknown)}; there are {', '.join(titles)}")
    if not options.report_only and not options.sprites:
        parser.error("--sprites is needed, unless --report_only is given")
    return options


def main(options: argparse.Namespace) -> None:
    """Train what is missing, then write the report."""
    keep_compiled()  # the same few programs, some two hundred times
    study = Study(work=options.work, judge=judge.load(options.judge), model=options.model)
    again = replace(study, work=options.work / "confirmation")
    if (own_judge := again.work / "judge").exists():
        again = replace(again, judge=judge.load(own_judge))
    elif options.confirm:
        raise SystemExit(f"{own_judge} does not exist: train it first, with train_judge.py --confirming true")
    if not options.report_only:
        if options.pairs or not (options.confirm or options.experiments):
            measure_pairs(study, options)
        if not options.pairs:
            measure(again if options.confirm else study, options)
    report.write(options.docs, study, confirmation=again)


def measure(study: Study, options: argparse.Namespace) -> None:
    """Train and score what is missing."""
    study.work.mkdir(parents=True, exist_ok=True)
    if options.confirm:
        every, titles = subjects.confirming(options.sprites), [EXPERIMENTS[0].title]
    else:
        every, titles = [*subjects.held_out(options.sprites), subjects.drawn()], options.experiments
    names = options.subjects.split(",") if options.subjects else [subject.name for subject in every]
    jobs = plan(every, seeds=options.seeds, titles=titles, crossed=options.crossed)
    wanted = [job for job in jobs if job.subject.name in names]
    with tqdm(total=len(wanted), unit="model") as bar:
        for count in run_all(study, wanted):
            bar.update(count)


def measure_pairs(study: Study, options: argparse.Namespace) -> None:
    """Two subjects in one model, pairs whose conditions are all wanted."""
    study.work.mkdir(parents=True, exist_ok=True)
    every = {subject.name: subject for subject in [*subjects.held_out(options.sprites), subjects.drawn()]}
    wanted = options.subjects.split(",") if options.subjects else every
    chosen = [[every[name] for name in pair] for pair in pairs.PAIRS if set(pair) <= set(wanted)]
    for pair, condition in tqdm([*product(chosen, pairs.CONDITIONS)], unit="model"):
        pairs.run_pair(study, condition, pair, seed=0)
        jax.clear_caches()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    main(parse())
