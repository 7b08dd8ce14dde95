# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``dreambooth-jax export``."""

from dreambooth_jax.cli.verb import Call, Verb
from dreambooth_jax.cli.words import one_each
from dreambooth_jax.options import ExportOptions


def export(call: Call) -> None:
    """Write a diffusers folder, or a single file."""
    options: ExportOptions = call.settings
    from dreambooth_jax.compilation_cache import keep_compiled
    from dreambooth_jax.export import save_pretrained
    from dreambooth_jax.progress import announced
    from dreambooth_jax.runs import open_model

    keep_compiled()
    with announced(f"reading {options.source}", usually="seconds, or half a minute for a large model"):
        model = open_model(**options.told())
    with announced(f"writing {options.out}", usually="seconds, or half a minute for a large model"):
        save_pretrained(options.out, model.pipe, model.params, format=options.format, dtype=options.dtype)
    print(options.out)


EXPORT = Verb(
    name="export",
    usage="SOURCE OUT [KEY=VALUE ...]",
    help="write a folder for diffusers, or a file for A1111 and ComfyUI",
    settings=ExportOptions,
    place_words=one_each("source", "out"),
    run=export,
    examples=(
        ("the newest checkpoint of a run", "export runs/dog dog-model"),
        ("an earlier one, in half the space", "export runs/dog dog-model step=400 dtype=float16"),
        ("one file for A1111 and ComfyUI", "export runs/dog dog.safetensors format=ldm dtype=float16"),
    ),
)
