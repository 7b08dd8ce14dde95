# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Bars that a command line prints, read back: what is done, how far it is, and how long it will take."""

import re
from typing import NamedTuple

_BAR = re.compile(r"(?P<what>[^|%]*?):?\s*\d+%\|.*\| *(?P<done>\d+)/(?P<whole>\d+) \[[\d:]+<(?P<left>[\d:?]+)")


class Bar(NamedTuple):
    """A bar.

    Attributes:
        what: is being done.
        done, whole: steps.
        left: time, as the bar tells it; empty while nobody knows.
    """

    what: str
    done: int
    whole: int
    left: str

    def __str__(self) -> str:
        left = f", {self.left} left" if self.left else ""
        return f"{self.what} {self.done} of {self.whole}{left}"


def bar_of(line: str) -> Bar | None:
    """The bar that a line shows; None if it shows none."""
    found = _BAR.match(line)
    if not found:
        return None
    left = "" if "?" in found["left"] else found["left"]
    return Bar(found["what"].strip(), int(found["done"]), int(found["whole"]), left)
