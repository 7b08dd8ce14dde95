# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""One training of one subject with one seed, sampled and scored; what is done is on disk and not done again.

results.jsonl     one line for each (training, sampling, subject, seed)
instances/        pictures of the subjects           class_images/   shared by all runs that make the same ones
runs/             of the training in progress; its folder goes when its scores are in
"""

import json
import logging
import shutil
import time
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from embedded.scenes import with_article
from jaxtyping import UInt8
from PIL import Image

from dreambooth_jax import load_config, train
from dreambooth_jax.config import Config
from dreambooth_jax.evaluation.judge import Judge
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.runs import open_model

from .conditions import Sampling, Training
from .experiments import EXPERIMENTS
from .figures import save_strip
from .scores import prompts, score
from .subjects import DRAWN, Subject, write_instances

log = logging.getLogger(__name__)

IDENTIFIER, WRONG_NOUN = "sks", "house"
STOPPED = "stopped by a signal; the same command goes on from there"
EXPORTED = ("model", "lora.safetensors", "embedding.safetensors")
"""What runs end with."""
BASE = Path(__file__).with_name("base.yaml")
"""What conditions change."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Where a study's files are, and whom it trusts."""

    work: Path
    judge: Judge
    model: str = "embedded"

    @property
    def results(self) -> Path:
        """A line each."""
        return self.work / "results.jsonl"

    def strip(self, training: Training, sampling: Sampling, seed: int) -> Path:
        """Some pictures of the creature that we drew; those of the others are not ours to show."""
        return self.work / "pictures" / f"{training.key}_{sampling.steps}_{sampling.guidance_scale:g}_{seed}.png"


class Job(NamedTuple):
    """One training, and all samplings of it that are wanted."""

    training: Training
    subject: Subject
    seed: int
    samplings: list[Sampling]


def plan(subjects: Sequence[Subject], *, seeds: int, titles: Collection[str] = (), crossed: bool = False) -> list[Job]:
    """What the experiments of these titles need (of all, by default), in their order, each training once.

    Args:
        subjects: all of the study.
        seeds: how many.
        titles: of experiments.
        crossed: every subject with every seed in all experiments, not only in those that say so, and of the trainings
            that one program does for all.
    """
    jobs: dict[tuple[str, str, int], Job] = {}
    for experiment in EXPERIMENTS:
        if titles and experiment.title not in titles:
            continue
        for seed, (number, subject) in product(range(seeds), enumerate(subjects)):
            own = crossed or experiment.crossed or seed == number % seeds
            for condition in experiment.conditions:
                if not (own or condition.training.has_members):
                    continue
                new = Job(condition.training, subject, seed, [])
                job = jobs.setdefault((condition.training.key, subject.name, seed), new)
                if condition.sampling not in job.samplings:
                    job.samplings.append(condition.sampling)
    return list(jobs.values())


def identity(training: Training, sampling: Sampling, subject: str, seed: int) -> dict[str, Any]:
    """What a line of the results is about."""
    return {"training": training.key, **sampling._asdict(), "subject": subject, "seed": seed}


def read_results(file: Path) -> list[dict[str, Any]]:
    """All lines so far."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


class Trial(NamedTuple):
    """What is missing of a job, ready to begin.

    Attributes:
        job: the whole of it.
        missing: samplings that have no line yet.
        instances: pictures of the subject.
        config: of the run.
    """

    job: Job
    missing: list[Sampling]
    instances: UInt8[np.ndarray, "i h w 3"]
    config: Config


def begin(study: Study, job: Job) -> Trial | None:
    """Write the pictures of a job's subject and settle its settings. None if nothing is missing of it."""
    training, subject, seed, samplings = job
    done = [{key: row[key] for key in identity(training, samplings[0], "", 0)} for row in read_results(study.results)]
    missing = [one for one in samplings if identity(training, one, subject.name, seed) not in done]
    return Trial(job, missing, *prepare(study, training, subject, seed)) if missing else None


def run(study: Study, job: Job) -> None:
    """Do what is missing of it."""
    trial, clock = begin(study, job), Clock()
    if trial is None:
        return
    if job.training.trained and not train(trial.config, listeners=[clock]).finished:
        raise SystemExit(STOPPED)
    conclude(study, trial, costs(Path(trial.config.run_dir), clock) if job.training.trained else {})


def conclude(study: Study, trial: Trial, took: Mapping[str, float]) -> None:
    """Sample and judge what was trained, write a line for each sampling, and let the run's folder go.

    Args:
        study: where lines go.
        trial: what was asked for.
        took: costs that its lines tell, too.
    """
    (training, subject, seed, _), config = trial.job, trial.config
    opened = open_model(config.run_dir if training.trained else study.model)
    pipe = replace(opened.pipe, params=opened.params)
    asked = prompts(called(training, subject), subject.class_noun)
    for sampling in trial.missing:
        own, of_class, elsewhere = (draw(pipe, texts, sampling) for texts in asked)
        if subject.name == DRAWN:
            save_strip(study.strip(training, sampling, seed), own=own, of_class=of_class)
        scores = score(
            study.judge,
            subject=subject.name,
            class_noun=subject.class_noun,
            asked=asked,
            instances=trial.instances,
            identifier_pictures=own,
            class_pictures=of_class,
            elsewhere_pictures=elsewhere,
        )
        told = {name: round(x, 4) for name, x in (scores | dict(took)).items()}
        line = identity(training, sampling, subject.name, seed) | told
        with study.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        log.info("%s", line)
    shutil.rmtree(config.run_dir, ignore_errors=True)


class Clock:
    """A listener of a run: reads the processor's time at each line of the log."""

    def __init__(self) -> None:
        self.read: list[tuple[int, float]] = []

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        self.read.append((step, time.process_time()))

    def seconds(self, steps: int) -> float:
        """Of the processor, for so many steps: by those from the first line to the last, so without compiling. Wall
        time would count what else the machine has to do.
        """
        (first, begin), (last, end) = self.read[0], self.read[-1]
        return steps * (end - begin) / (last - first)


def costs(run: Path, clock: Clock) -> dict[str, float]:
    """``seconds`` of one core for all steps, and ``megabytes`` of the files that the run ends with; of a run that was
    finished before, only these.
    """
    weighs = {"megabytes": megabytes(run)}
    if len(clock.read) < 2:
        return weighs
    return {"seconds": clock.seconds(load_config(run / "config.yaml").train.steps)} | weighs


def megabytes(run: Path) -> float:
    """Of the files that a run ends with."""
    files = [file for name in EXPORTED for file in [run / name, *(run / name).rglob("*.safetensors")] if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def prepare(
    study: Study, training: Training, subject: Subject, seed: int
) -> tuple[UInt8[np.ndarray, "i h w 3"], Config]:
    """(instance pictures, the run's settings)."""
    words = training.words.replace("{wrong_noun}", WRONG_NOUN)
    folder = study.work / "instances" / f"{subject.name}_{training.instances}_{zlib.crc32(words.encode()):08x}"
    write_instances(subject, folder, count=training.instances, words=words)
    pictures = np.stack([np.asarray(Image.open(folder / f"{i}.png")) for i in range(training.instances)])
    a_class = with_article(subject.class_noun).replace(subject.class_noun, "{class_noun}")
    settings = {"prior.class_prompt": a_class} | {
        key: value.replace("{a_class}", a_class) if isinstance(value, str) else value
        for key, value in training.settings.items()
    }
    made = settings.get("prior.class_images_prompt", a_class)
    settings |= {
        "run_dir": study.work / "runs" / f"{training.key}_{subject.name}_{seed}",
        "model.path": study.model,
        "data.instance_images": folder,
        "data.class_noun": subject.class_noun,
        "data.identifier": IDENTIFIER,
        "prior.class_images": study.work / "class_images" / f"{subject.class_noun}_{zlib.crc32(made.encode()):08x}",
        "train.seed": seed,
    }
    return pictures, load_config(BASE, [f"{key}={value}" for key, value in settings.items()])


def called(training: Training, subject: Subject) -> str:
    """The subject's words in a prompt: "a sks dog"."""
    words = training.words.replace("{wrong_noun}", WRONG_NOUN)
    return words.format(identifier=IDENTIFIER, class_noun=subject.class_noun)


def draw(pipe: Pipeline, texts: list[str], sampling: Sampling) -> UInt8[np.ndarray, "n h w 3"]:
    """A picture of each prompt; picture i has seed i, whatever was trained."""
    return pipe(texts, seed=0, steps=sampling.steps, guidance_scale=sampling.guidance_scale)
