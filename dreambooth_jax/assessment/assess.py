# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Draw, measure and compare: what the verb ``evaluate`` does."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dreambooth_jax.assessment.drawn import Counts, base_of, groups_of, identity_of
from dreambooth_jax.assessment.elsewhere import groups_in
from dreambooth_jax.assessment.result import Column, Measured
from dreambooth_jax.assessment.sources import Source, first_config, read_sources
from dreambooth_jax.assessment.subjects import Sitter, sitters_of
from dreambooth_jax.config import Config, load_config
from dreambooth_jax.config.drawing import DrawingConfig
from dreambooth_jax.errors import InputError
from dreambooth_jax.evaluation.open_towers import for_model, open_towers
from dreambooth_jax.evaluation.score_file import ScoreFile, score
from dreambooth_jax.evaluation.scores import Group, Kind, Material, Towers
from dreambooth_jax.options import EvaluateOptions
from dreambooth_jax.progress import announced
from dreambooth_jax.runs import OpenedModel, RunFolder, open_model
from dreambooth_jax.target import Target

log = logging.getLogger(__name__)

SCORES = "scores.jsonl"
SamplingOf = Callable[[OpenedModel], DrawingConfig]


def assess(options: EvaluateOptions, *, sampling_of: SamplingOf, out: Path) -> list[Column]:
    """All columns of the table.

    Args:
        options: of the command line.
        sampling_of: how a model draws.
        out: folder that pictures and scores are kept in.

    Raises:
        InputError: if a source or a tower is not what it should be.
    """
    sources = read_sources(options.sources)
    first = first_config(sources)
    towers = open_towers(options.evaluate, Target.here())
    return [
        Column(
            name=source.name,
            subjects=tuple(_measured(source, options, towers=towers, first=first, sampling_of=sampling_of, out=out)),
        )
        for source in sources
    ]


def _measured(
    source: Source,
    options: EvaluateOptions,
    *,
    towers: Towers,
    first: Config | None,
    sampling_of: SamplingOf,
    out: Path,
) -> Iterator[Measured]:
    for place, config in _places(source, first):
        name = source.name if len(source.runs) < 2 or place is None else f"{source.name}-{place.name}"
        path = config.model.path if place and config else source.model
        own = for_model(towers, path)
        sitters = list(sitters_of(config, options, name=name, model=path))
        if source.pictures:
            for sitter in sitters[:1]:
                yield _finish(sitter, groups_in(source.pictures, sitter), own, out)
            continue
        with announced(f"reading {name}", usually="seconds, or half a minute for a large model"):
            chosen: dict[str, Any] = {"step": options.step, "ema": options.ema} if place else {}
            model = open_model(str(place or source.model), dtype=options.dtype, **chosen)
        base = base_of(place, model, dtype=options.dtype) if place and own.dino else None
        for sitter in sitters:
            groups = groups_of(
                model,
                sitter,
                sampling=sampling_of(replace(model, config=model.config or first)),
                counts=Counts(each=options.num_images, of_class=options.num_class_images, seed=options.seed),
                out=out,
                identity=identity_of(place, options.step),
                base=base,
            )
            yield _finish(sitter, groups, own, out)


def _places(source: Source, first: Config | None) -> Sequence[tuple[Path | None, Config | None]]:
    """(run, its settings) of each run; of anything else the settings that say what is compared."""
    return [(run, load_config(RunFolder(run).config)) for run in source.runs] or [(None, first)]


def _finish(sitter: Sitter, groups: dict[Kind, list[Group]], towers: Towers, out: Path) -> Measured:
    folder = out / sitter.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}") from error
    photos = [np.asarray(photo.image()) for photo in sitter.photos]
    with announced(f"measuring the pictures of {sitter.name}", usually="a second for each dozen"):
        scores = score(
            Material(photos=photos, groups=groups), towers, subject=sitter.name, file=ScoreFile(folder / SCORES)
        )
    return Measured(name=sitter.name, photos=photos, groups=groups, scores=scores)
