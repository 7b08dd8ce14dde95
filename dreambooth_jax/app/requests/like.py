# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a picture says of how it was made, as far as it can be asked for here: it names no file, and opens none."""

from pathlib import Path
from typing import Any, NamedTuple

from dreambooth_jax.app.progress import placeless
from dreambooth_jax.app.requests.draw import MAIN, MORE
from dreambooth_jax.app.requests.text import check_text
from dreambooth_jax.app.uploads import Bounds
from dreambooth_jax.cli.loras import has_tags, without_tags
from dreambooth_jax.errors import InputError
from dreambooth_jax.metadata.reading import read_remake


class ReadBack(NamedTuple):
    """What was read.

    Attributes:
        prompt: without the names of adapters.
        seed: of the picture.
        settings: of ``MAIN`` and ``MORE``, those that it says.
        lines: what made it, and what of it cannot be repeated here.
    """

    prompt: str
    seed: int
    settings: dict[str, Any]
    lines: list[str]


def read_back(file: Path) -> ReadBack:
    """Read what a picture says.

    Raises:
        InputError: if it says nothing, or what cannot be asked for here.
    """
    bounds = Bounds()
    if file.stat().st_size > bounds.megabytes * 1_000_000:
        raise InputError(f"the picture has more than {bounds.megabytes} MB")
    try:
        remake = read_remake(file)
    except InputError as error:
        raise InputError(str(error).replace(str(file), "the picture")) from None
    prompt = without_tags(remake.prompt)
    lacking = [line.partition(": give")[0] for line in remake.lacking]
    lacking += ["the adapters that its prompt names"] if has_tags([remake.prompt]) else []
    settings = {name: value for name, value in remake.options.items() if name in (*MAIN, *MORE)}
    check_text("its prompt", prompt)
    for name, value in settings.items():
        if isinstance(value, str):
            check_text(f"its {name}", value)
    lines = [f"made by {remake.tool}", *(f"not repeated: {placeless(line)}" for line in lacking)]
    return ReadBack(prompt, remake.seed, settings, lines)
