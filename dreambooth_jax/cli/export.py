# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``dreambooth-jax export``."""

from dreambooth_jax.cli.verb import Call, Verb
from dreambooth_jax.cli.words import one_each
from dreambooth_jax.options import ExportOptions


def export(call: Call) -> None:
    """Write a diffusers folder, a single file, or an adapter's file."""
    options: ExportOptions = call.settings
    from dreambooth_jax.compilation_cache import keep_compiled
    from dreambooth_jax.export.chosen import export as write
    from dreambooth_jax.progress import announced

    keep_compiled()
    what = f"reading {options.source} and writing {options.out}"
    usually = "seconds, or a minute for a large model" if options.rank is None else "minutes for a large model"
    with announced(what, usually=usually):
        write(options)
    print(options.out)


EXPORT = Verb(
    name="export",
    usage="SOURCE OUT [KEY=VALUE ...]",
    help="write a folder for diffusers, or a file for A1111 and ComfyUI",
    settings=ExportOptions,
    repeatable=("lora",),
    place_words=one_each("source", "out"),
    run=export,
    examples=(
        ("the newest checkpoint of a run", "export runs/dog dog-model"),
        ("an earlier one, in half the space", "export runs/dog dog-model step=400 dtype=float16"),
        ("one file for A1111 and ComfyUI", "export runs/dog dog.safetensors format=ldm dtype=float16"),
        ("what a run with LoRA trained", "export runs/dog-lora dog-lora.safetensors dtype=float16"),
        (
            "an adapter of others in the form that most tools load",
            "export peft.safetensors dog.safetensors format=kohya",
        ),
        ("a model with two adapters", "export MODEL merged --lora dog.safetensors:0.8 --lora style.safetensors:0.5"),
        ("a plain LoRA of whatever was trained", "export runs/dog dog-lora.safetensors rank=16"),
        ("one of a model that others tuned", "export TUNED tuned-lora.safetensors rank=16 base=MODEL dtype=float16"),
    ),
)
