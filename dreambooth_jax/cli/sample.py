# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``dreambooth-jax sample``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreambooth_jax.cli.verb import Verb
from dreambooth_jax.cli.words import one_each, quoted_list
from dreambooth_jax.errors import InputError
from dreambooth_jax.options import SampleOptions


def sample(options: SampleOptions, others: Mapping[str, Any]) -> None:
    """Draw pictures and a grid."""
    del others
    from dreambooth_jax.compilation_cache import keep_compiled
    from dreambooth_jax.evaluation.samples import SampleSettings, draw_rows, save_grid, save_pictures
    from dreambooth_jax.runs import RunFolder, open_model

    keep_compiled()
    prompts = read_prompts(options)
    model = open_model(options.source, step=options.step, ema=options.ema, dtype=options.dtype)
    trained_at = model.config.data.size if model.config else None
    settings = SampleSettings(
        prompts=prompts,
        num_images=options.num_images,
        seed=options.seed,
        sampling=options.sampling(size=trained_at),
    )
    rows = draw_rows(model.pipe, settings, params=model.params)
    run = RunFolder(Path(options.source))
    out = Path(options.out) if options.out else (run.path if run.is_run() else Path()) / "samples"
    save_pictures(out, rows, settings, model=model.name)
    save_grid(out / "grid.png", rows, settings, title=model.name)
    print(out / "grid.png")


def read_prompts(options: SampleOptions) -> list[str]:
    """Prompts of the command line, then those of the file.

    Raises:
        InputError: if there is none, or no such file.
    """
    prompts = list(options.prompts)
    if options.prompts_file:
        try:
            lines = Path(options.prompts_file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {options.prompts_file}: {error}") from error
        prompts += [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise InputError("no prompt: write it after the model, in quotes, or give --prompts_file=prompts.txt")
    return prompts


def source_and_prompts(words: Sequence[str]) -> list[str]:
    """The first word is a model, the others are prompts."""
    source = one_each("source")(words[:1])
    return source + ([f"--prompts={quoted_list(words[1:])}"] if words[1:] else [])


SAMPLE = Verb(
    name="sample",
    usage="SOURCE PROMPT [PROMPT ...] [KEY=VALUE ...]",
    help="draw pictures and a labelled grid",
    settings=SampleOptions,
    place_words=source_and_prompts,
    run=sample,
    examples=(
        ("four pictures of each prompt", 'sample runs/dog "a photo of sks dog in the snow" "a sks dog as a statue"'),
        ("other seeds, fewer steps", 'sample runs/dog "a photo of sks dog" seed=100 num_images=8 steps=20'),
        ("a model from the hub", 'sample stable-diffusion-v1-5/stable-diffusion-v1-5 "a photo of a dog" --out dogs'),
    ),
)
