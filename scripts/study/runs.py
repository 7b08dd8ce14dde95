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
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from embedded.scenes import with_article
from jaxtyping import UInt8
from PIL import Image

from dreambooth_jax import load_config, train
from dreambooth_jax.config import Config, ModelConfig
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.prepare.inputs import open_pretrained

from .conditions import EXPERIMENTS, Sampling, Training
from .judge import Judge
from .scores import prompts, score
from .subjects import Subject, write_instances

log = logging.getLogger(__name__)

IDENTIFIER, WRONG_NOUN = "sks", "house"
QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


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


def jobs(titles: Iterable[str] = ()) -> list[tuple[Training, list[Sampling]]]:
    """Every training that the experiments of these titles need (all, by default), with the samplings of it."""
    chosen = set(titles) or {experiment.title for experiment in EXPERIMENTS}
    wanted: dict[str, tuple[Training, list[Sampling]]] = {}
    for experiment in EXPERIMENTS:
        for condition in experiment.conditions if experiment.title in chosen else ():
            _, samplings = wanted.setdefault(condition.training.key, (condition.training, []))
            if condition.sampling not in samplings:
                samplings.append(condition.sampling)
    return list(wanted.values())


def identity(training: Training, sampling: Sampling, subject: str, seed: int) -> dict[str, Any]:
    """What a line of the results is about."""
    return {"training": training.key, **sampling._asdict(), "subject": subject, "seed": seed}


def read_results(file: Path) -> list[dict[str, Any]]:
    """All lines so far."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def run(study: Study, training: Training, samplings: list[Sampling], subject: Subject, seed: int) -> None:
    """Do what is missing of one training."""
    done = [{key: row[key] for key in identity(training, samplings[0], "", 0)} for row in read_results(study.results)]
    missing = [one for one in samplings if identity(training, one, subject.name, seed) not in done]
    if not missing:
        return
    instances, config = prepare(study, training, subject, seed)
    if training.trained:
        folder = train(config)
        if not (folder / "model").exists():
            raise SystemExit("stopped by a signal; the same command goes on from there")
    pipe = open_pretrained(ModelConfig(path=str(Path(config.run_dir) / "model") if training.trained else study.model))
    asked = prompts(called(training, subject), subject.class_noun)
    for sampling in missing:
        scores = score(
            study.judge,
            subject=subject.name,
            class_noun=subject.class_noun,
            asked=asked,
            instances=instances,
            identifier_pictures=draw(pipe, asked.identifier, sampling),
            class_pictures=draw(pipe, asked.of_class, sampling),
        )
        line = identity(training, sampling, subject.name, seed) | {name: round(x, 4) for name, x in scores.items()}
        with study.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        log.info("%s", line)
    shutil.rmtree(config.run_dir, ignore_errors=True)


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
        "samples.every": 0,
        "checkpoint.every": 1_000_000,  # only the last step's
    }
    return pictures, load_config(QUICKSTART, [f"{key}={value}" for key, value in settings.items()])


def called(training: Training, subject: Subject) -> str:
    """The subject's words in a prompt: "a sks dog"."""
    words = training.words.replace("{wrong_noun}", WRONG_NOUN)
    return words.format(identifier=IDENTIFIER, class_noun=subject.class_noun)


def draw(pipe: Pipeline, texts: list[str], sampling: Sampling) -> UInt8[np.ndarray, "n h w 3"]:
    """A picture of each prompt; picture i has seed i, whatever was trained."""
    return pipe(texts, seed=0, steps=sampling.steps, guidance_scale=sampling.guidance_scale)
