# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is being done and how long it will take, for whoever waits.

with announced("compiling the training step", usually="a minute or so"):    # one line, if it lasts
    ...
with Progress(total=200, desc="class images", unit="image") as bar:         # a bar with the time left
    bar.update(4)
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from tqdm import tqdm

log = logging.getLogger(__name__)

SILENCE = 2.0
"""Seconds that something may last without a word."""
SETTLED = 2
"""Updates after the first one that an estimate of the time left is made of."""


@contextmanager
def announced(what: str, *, usually: str) -> Iterator[None]:
    """Say what is being done, if it lasts longer than ``SILENCE``.

    Args:
        what: such as "compiling the training step".
        usually: how long it takes, such as "a minute or so".
    """
    timer = threading.Timer(SILENCE, log.info, ("%s (usually %s)", what, usually))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Progress(tqdm):
    """A bar whose time left is that of the work alone: the first item, which also compiles, does not count.

    It takes tqdm's arguments. Items that are done together, a batch, are one update.
    """

    def __init__(self, *args: Any, **options: Any):
        self._first: tuple[float, float | int] | None = None
        self._updates = 0
        self._rate = 0.0
        form = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
        super().__init__(*args, **{"bar_format": form, "dynamic_ncols": True} | options)

    def update(self, n: float | int | None = 1) -> bool | None:
        """Count ``n`` more items as done."""
        now, done = perf_counter(), self.n + (n or 0)
        if self._first is None:
            self._first = now, done
        else:
            self._updates += 1
            if self._updates >= SETTLED and now > self._first[0]:
                self._rate = (done - self._first[1]) / (now - self._first[0])
        return super().update(n)

    @property
    def time_left(self) -> float | None:
        """Seconds; None while nobody can know."""
        return (self.total - self.n) / self._rate if self._rate and self.total is not None else None

    @property
    def format_dict(self) -> dict[str, Any]:
        """What a line is made of; a rate of 0 shows the time left as a question mark."""
        return super().format_dict | {"rate": getattr(self, "_rate", 0.0)}
