# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Two subjects in one model: who is taken for whom, with and without lessons of a teacher that keep them apart.

Pictures are asked for with the word of each subject and with its class alone. The judge takes a picture for the subject
that it was asked for (``itself``), for the one beside it in the model (``other``), or for neither.

pairs.jsonl   one line for each (condition, pair, seed): asked for -> who is seen -> share of the pictures
"""

import json
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from embedded.scenes import with_article
from jaxtyping import UInt8

from dreambooth_jax import load_config, train
from dreambooth_jax.config import Config
from dreambooth_jax.evaluation.judge import Judge
from dreambooth_jax.runs import open_model

from .conditions import FAST, WORDS, Claim
from .runs import BASE, Study, draw, read_results
from .scores import prompts
from .subjects import Subject, write_instances
from .ways import LORA, TEACHER

IDENTIFIERS, NOUN = ("sks", "zwx"), "toy"
"""All have one class, as two dogs or two people have: only the identifiers tell them apart."""
PAIRS = (("robot", "alien"), ("poodle", "parrot"), ("pickup_truck", "teddy_bear"), ("backpack", "latte_cup"))
"""Two that stand upright, two animals, a thing and an animal, two things."""
NEITHER = "neither"
SEEN = ("itself", "other", NEITHER)
_EVERY = 2
"""Of the pictures that a single subject is judged by."""
PICTURES = {kind: len(texts) // _EVERY for kind, texts in zip(("word", "class"), prompts("a sks toy", NOUN))}
"""Judged of each subject."""


@dataclass(frozen=True, kw_only=True)
class PairCondition:
    """How two subjects are trained: config keys that differ from LoRA's, of the ways to personalise."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The same for the same training."""
        return f"{zlib.crc32(repr(sorted((LORA | self.settings).items())).encode()):08x}"


CONDITIONS = (
    PairCondition(name="on the class prompt", settings=TEACHER),
    PairCondition(name="also on each other's prompts", settings=TEACHER | {"prior.other_subjects": True}),
)
CLAIMS = (
    Claim(
        "A teacher on each other's prompts keeps two subjects apart: fewer are taken for the other.",
        "this project",
        "other",
        "on the class prompt",
        "also on each other's prompts",
    ),
    Claim(
        "It costs no recognition.",
        "this project",
        "itself",
        "also on each other's prompts",
        "on the class prompt",
    ),
)
"""All of pictures that were asked for with a subject's word."""


def run_pair(study: Study, condition: PairCondition, pair: Sequence[Subject], seed: int) -> None:
    """Train, sample and judge it, if that was not done."""
    names = [subject.name for subject in pair]
    about = {"training": condition.key, "pair": names, "seed": seed}
    if any({key: line[key] for key in about} == about for line in read_results(results(study))):
        return
    config = prepare(study, condition, pair, seed)
    if not train(config).finished:
        raise SystemExit("stopped by a signal; the same command goes on from there")
    opened = open_model(config.run_dir)
    pipe = replace(opened.pipe, params=opened.params)
    taken: dict[str, dict[str, dict[str, float]]] = {"word": {}, "class": {}}
    for subject, identifier in zip(pair, IDENTIFIERS):
        asked = prompts(WORDS.format(identifier=identifier, class_noun=NOUN), NOUN)
        for kind, texts in (("word", asked.identifier), ("class", asked.of_class)):
            taken[kind][subject.name] = seen(study.judge, draw(pipe, texts[::_EVERY], FAST), names)
    with results(study).open("a", encoding="utf-8") as file:
        file.write(json.dumps(about | taken) + "\n")
    shutil.rmtree(config.run_dir, ignore_errors=True)


def results(study: Study) -> Path:
    """A line each."""
    return study.work / "pairs.jsonl"


def seen(judge: Judge, pictures: UInt8[np.ndarray, "n h w 3"], names: Sequence[str]) -> dict[str, float]:
    """Share of pictures that are taken for each of the names, and for none of these."""
    said = judge(pictures).subjects
    shares = {name: round(said.count(name) / len(said), 4) for name in names}
    return shares | {NEITHER: round(sum(one not in names for one in said) / len(said), 4)}


def prepare(study: Study, condition: PairCondition, pair: Sequence[Subject], seed: int) -> Config:
    """The run's settings, with the pictures of both subjects written."""
    concepts = []
    for subject, identifier in zip(pair, IDENTIFIERS):
        folder = study.work / "instances" / f"{subject.name}_pair"
        write_instances(subject, folder, count=5, words=WORDS)
        concepts.append({"identifier": identifier, "instance_images": str(folder)})
    settings = LORA | condition.settings
    settings |= {
        "run_dir": study.work / "runs" / f"{condition.key}_{pair[0].name}_{pair[1].name}_{seed}",
        "model.path": study.model,
        "data.class_noun": NOUN,
        "prior.class_prompt": with_article(NOUN),
        "data.concepts": json.dumps(concepts),
        "train.seed": seed,
    }
    return load_config(BASE, [f"{key}={value}" for key, value in settings.items()])


def rows_of(
    condition: PairCondition, lines: Sequence[Mapping[str, Any]], *, kind: str = "word"
) -> list[dict[str, Any]]:
    """One row for each pair and seed: the shares of :data:`SEEN`, of both subjects together.

    Subjects of a pair are trained together and so no independent witnesses; ``subject`` is the pair.
    """
    rows = []
    for line in lines:
        if line["training"] != condition.key:
            continue
        shares = [of_seen(line[kind][name], name) for name in line["pair"]]
        means = {one: float(np.mean([share[one] for share in shares])) for one in SEEN}
        rows.append({"subject": " + ".join(line["pair"]), "seed": line["seed"]} | means)
    return rows


def of_seen(shares: Mapping[str, float], name: str) -> dict[str, float]:
    """Shares by name -> shares of :data:`SEEN`, for a subject of this name."""
    other = sum(share for one, share in shares.items() if one not in (name, NEITHER))
    return {"itself": shares[name], "other": other, NEITHER: shares[NEITHER]}
