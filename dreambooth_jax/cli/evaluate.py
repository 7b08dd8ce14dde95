# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``dreambooth-jax evaluate``."""

import logging
from collections.abc import Sequence
from pathlib import Path

from dreambooth_jax.cli.sample import sampling_of
from dreambooth_jax.cli.verb import Call, Verb
from dreambooth_jax.cli.words import quoted_list
from dreambooth_jax.options import EvaluateOptions
from dreambooth_jax.paths import at_home

log = logging.getLogger(__name__)


def evaluate(call: Call) -> None:
    """Draw what is missing, measure it, and write a table, JSON and a report.

    Raises:
        InputError: if a source, a tower or the photos are not what they should be.
    """
    options: EvaluateOptions = call.settings
    from dreambooth_jax.assessment.assess import assess
    from dreambooth_jax.assessment.report import as_html
    from dreambooth_jax.assessment.table import as_json, as_text
    from dreambooth_jax.compilation_cache import keep_compiled
    from dreambooth_jax.text_files import write_text

    keep_compiled()
    out = folder_of(options)
    columns = assess(options, sampling_of=lambda model: sampling_of(options, call.told, model), out=out)
    log.info("\n%s\n", as_text(columns))
    write_text(out / "scores.json", as_json(columns))
    report = out / "report.html"
    write_text(report, as_html(columns))
    print(report)


def folder_of(options: EvaluateOptions) -> Path:
    """Where all is kept: in the run folder, if there is one source and it has one."""
    from dreambooth_jax.assessment.sources import read_sources

    (source, *others) = read_sources(options.sources)
    alone = at_home(options.sources[0]) if source.runs and not others else Path()
    return Path(options.out) if options.out else alone / "evaluation"


def sources(words: Sequence[str]) -> list[str]:
    """All words are sources."""
    return [f"--sources={quoted_list(words)}"] if words else []


EVALUATE = Verb(
    name="evaluate",
    usage="RUN | MODEL | FOLDER ... [KEY=VALUE ...]",
    help="measure likeness, prompts, leaks and variety as the paper does; several at once are compared",
    settings=EvaluateOptions,
    place_words=sources,
    run=evaluate,
    common={
        "with which networks": ("evaluate.dino", "evaluate.clip", "evaluate.lpips", "evaluate.judge"),
        "of what": ("photos", "prompts", "other_prompts", "class_noun", "num_images", "num_class_images"),
        "how": ("steps", "guidance_scale", "sampler", "step", "out"),
    },
    examples=(
        (
            "a run by the paper's measures; the same command goes on",
            "evaluate runs/dog evaluate.dino=facebook/dino-vits16 evaluate.lpips=alex.pth",
        ),
        ("what training changed", "evaluate embedded runs/quickstart"),
        (
            "pictures of another tool, called 0-a.png, 0-b.png, 1-a.png ...",
            "evaluate pictures --photos dog6 --prompts dreambooth-live --class_noun dog",
        ),
    ),
)
