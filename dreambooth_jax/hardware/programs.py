# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What an optimised program (``compiled.as_text()``, of any platform) asks of links and memory, and of which kernels.

Loops count as often as they run; one whose count cannot be read counts once, and ``unread_loops`` counts such loops.
"""

import re
from collections import Counter

from dreambooth_jax.hardware.accesses import Materialised, largest, traffic
from dreambooth_jax.hardware.exchanges import KINDS, Collective, collectives, moved, moved_between_hosts
from dreambooth_jax.hardware.hlo import parse
from dreambooth_jax.hardware.loops import trips, walk

__all__ = [
    "KINDS",
    "Collective",
    "Materialised",
    "collectives",
    "kernels",
    "largest",
    "moved",
    "moved_between_hosts",
    "traffic",
    "unread_loops",
]


def kernels(text: str) -> Counter[str]:
    """How often each library's or custom kernel stands in a program: ``__cudnn$fmhaSoftmax``, ``tpu_custom_call``."""
    return Counter(re.findall(r'custom_call_target="([^"]*)"', text))


def unread_loops(text: str) -> int:
    """Loops whose count cannot be read, and that therefore count once."""
    program = parse(text)
    return sum(one.opcode == "while" and trips(program, home, one) is None for home, one, _ in walk(program))
