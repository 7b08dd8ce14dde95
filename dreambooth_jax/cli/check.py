# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``dreambooth-jax check``."""

import json

from dreambooth_jax.cli.verb import Call, Verb
from dreambooth_jax.cli.words import one_each
from dreambooth_jax.options import CheckOptions


def check(call: Call) -> None:
    """Tell what a file is, and what tools make of it."""
    options: CheckOptions = call.settings
    from dreambooth_jax.weights.checking import as_dict, as_text, check_file

    report = check_file(options.file)
    print(json.dumps(as_dict(report), indent=2, ensure_ascii=False) if options.json else as_text(report))


CHECK = Verb(
    name="check",
    usage="FILE [--json]",
    help="what a file is, what it changes, and what A1111, Forge, ComfyUI and diffusers load of it",
    settings=CheckOptions,
    place_words=one_each("file"),
    run=check,
    examples=(
        ("an adapter that somebody gave you", "check dog.safetensors"),
        ("for a script", "check dog.safetensors --json"),
    ),
)
