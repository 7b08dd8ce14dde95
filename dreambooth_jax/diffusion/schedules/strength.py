# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How many steps a run takes that starts from a picture, of which only a part is to change."""

import math
from typing import NamedTuple

from dreambooth_jax.errors import InputError


class Part(NamedTuple):
    """The end of a run."""

    steps: int
    """Of the whole run, as the table is built for."""
    start: int
    """How many of them are left out at the noisy end."""


def part_of(steps: int, strength: float, *, profile: str | None = None, fixed: bool = False) -> Part:
    """What is run of a number of steps for a strength.

    diffusers runs ⌊n s⌋ of n steps, A1111 one more, ComfyUI n of ⌊n / s⌋, so that all that were asked for are run.

    Args:
        steps: n.
        strength: s, above 0 and at most 1: 1 is a whole run.
        profile: whose rule; by default that of diffusers.
        fixed: all n steps are run whatever the strength, as ComfyUI does and A1111 if it is told to do exactly so many.

    Raises:
        InputError: for a strength that leaves no step to run.
    """
    if not 0 < strength <= 1:
        raise InputError(f"strength = {strength}: must be above 0 and at most 1")
    if fixed or profile == "comfy":
        whole = max(math.floor(steps / (min(strength, 0.999) if profile == "a1111" else strength)), steps)
        return Part(whole, whole - steps)
    run = math.floor(min(strength, 0.999) * steps) + 1 if profile == "a1111" else math.floor(steps * strength)
    if run < 1:
        raise InputError(f"strength = {strength}: leaves none of {steps} steps; take more steps, or a larger strength")
    return Part(steps, steps - min(run, steps))
