# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Metrics that leave the device some steps after they were asked for, and a bar on the screen.

The loop never waits for the step that it has just started. Metrics are read ``LAG`` steps later, when they are there,
which also keeps the host from running further ahead than that.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax

from dreambooth_jax.progress import Progress

LAG = 2

Extra = TypeVar("Extra")


class Late(ABC, Generic[Extra]):
    """What has been pushed is read in order, a little later.

    Args:
        new_bar: makes the bar, which is there from the first step on: what comes before it is told in other ways.
    """

    def __init__(self, new_bar: Callable[[], Progress]):
        self._new_bar = new_bar
        self._bar: Progress | None = None
        self._pending: deque[tuple[int, dict[str, jax.Array], Any]] = deque()

    def push(self, step: int, metrics: dict[str, jax.Array], extra: Extra) -> None:
        """Metrics of the step that made state number ``step``; ``extra`` are host numbers such as learning rates."""
        if self._bar is None:
            self._bar = self._new_bar()
        self._pending.append((step, metrics, extra))
        while len(self._pending) > LAG:
            self._read()

    def flush(self) -> None:
        """Wait for all steps so far."""
        while self._pending:
            self._read()

    def close(self) -> None:
        """Leave the bar on the screen as it is."""
        if self._bar is not None:
            self._bar.close()

    @abstractmethod
    def _read(self) -> None:
        """Take what has waited longest out of ``_pending``."""
