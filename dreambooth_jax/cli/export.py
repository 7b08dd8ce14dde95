# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``dreambooth-jax export``."""

from collections.abc import Mapping
from typing import Any

from dreambooth_jax.cli.verb import Verb
from dreambooth_jax.cli.words import one_each
from dreambooth_jax.options import ExportOptions


def export(options: ExportOptions, others: Mapping[str, Any]) -> None:
    """Write a diffusers folder."""
    del others
    from dreambooth_jax.compilation_cache import keep_compiled
    from dreambooth_jax.export import save_pretrained
    from dreambooth_jax.runs import open_model

    keep_compiled()
    model = open_model(options.source, step=options.step, ema=options.ema)
    save_pretrained(options.out, model.pipe, model.params, format=options.format, dtype=options.dtype)
    print(options.out)


EXPORT = Verb(
    name="export",
    usage="SOURCE OUT [KEY=VALUE ...]",
    help="write a folder that diffusers and ComfyUI open",
    settings=ExportOptions,
    place_words=one_each("source", "out"),
    run=export,
    examples=(
        ("the newest checkpoint of a run", "export runs/dog dog-model"),
        ("an earlier one, in half the space", "export runs/dog dog-model step=400 dtype=float16"),
    ),
)
