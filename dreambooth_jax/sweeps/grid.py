# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Settings of sampling among what a sweep varies: with each member all of their combinations are drawn, and none is
trained again."""

import shlex
from collections.abc import Sequence

from dreambooth_jax.config import SamplingConfig
from dreambooth_jax.config.parse import key_types
from dreambooth_jax.errors import InputError
from dreambooth_jax.evaluation.axes import read_axes
from dreambooth_jax.members.axes import Axis

GROUP = "samples."
DRAWN = (*key_types(SamplingConfig), "seed")
"""Settings of ``samples`` that change pictures alone."""


def grid_of(axes: Sequence[Axis]) -> tuple[str, list[Axis]]:
    """(the grid, as the verb ``sample`` takes it, or empty; axes that are trained).

    Raises:
        InputError: for a value that sampling cannot have, or for too many.
    """
    drawn = [axis for axis in axes if axis.is_setting and axis.key.removeprefix(GROUP) in DRAWN and GROUP in axis.key]
    words = []
    for axis in drawn:
        texts = [choice.told[0].partition("=")[2] for choice in axis.choices]
        sign = ";" if any("," in text for text in texts) else ","
        words.append(shlex.quote(f"{axis.key.removeprefix(GROUP)}={sign.join(texts)}"))
    grid = " ".join(words)
    if grid:
        try:
            read_axes(grid)
        except InputError as error:
            raise InputError(str(error).replace("grid", "samples", 1)) from error
    return grid, [axis for axis in axes if axis not in drawn]
