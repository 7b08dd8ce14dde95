# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A matrix: two settings with several values each, of which all combinations are drawn."""

import re
import shlex
from collections.abc import Sequence
from math import prod

from dreambooth_jax.app.requests.text import check_text
from dreambooth_jax.errors import InputError
from dreambooth_jax.prompts.named import expanded

VARIED = (
    *("steps", "guidance_scale", "sampler", "schedule", "seed", "prompt", "negative_prompt", "strength", "step"),
    *("clip_skip", "guidance_rescale", "eta", "ancestral_eta", "hires_strength", "variation_strength"),
)
"""Settings that may vary: none that names a place, and none that decides how much memory is taken."""
TEXTS = ("prompt", "negative_prompt")
MOST_CELLS = 36
_PLAIN = re.compile(r"[\w .,;+-]*")


def grid_of(varied: Sequence[tuple[str, str]], *, most_steps: int) -> str:
    """The option ``grid`` of ``sample``.

    Args:
        varied: (setting, its values, between commas or semicolons).
        most_steps: that a value of ``steps`` may be.

    Raises:
        InputError: for a setting that may not vary, a value that it cannot have, or too many pictures.
    """
    from dreambooth_jax.evaluation.axes import read_axes

    for name, values in varied:
        check_text(f"what {name} is to be", values)
        if name not in VARIED:
            raise InputError(f"a matrix varies {', '.join(VARIED)}, not {name[:40]!r}")
        if name not in TEXTS and not _PLAIN.fullmatch(values):
            raise InputError(
                f"values of {name} are {values[:40]!r}: write them with commas between, such as 10, 20, 40"
            )
    text = " ".join(shlex.quote(f"{name}={values}") for name, values in varied)
    axes = read_axes(text)
    count = prod(len(expanded(axis.values) if axis.key == "prompt" else axis.values) for axis in axes)
    if count > MOST_CELLS:
        raise InputError(f"the matrix has {count} pictures: at most {MOST_CELLS}")
    if any(axis.key == "steps" and max(axis.values) > most_steps for axis in axes):
        raise InputError(f"the matrix has more than {most_steps} steps: at most that")
    return text
