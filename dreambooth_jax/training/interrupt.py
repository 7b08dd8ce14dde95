# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Stopping politely: SIGTERM (a preempted machine) and the first Ctrl-C end the run after the step at hand."""

import signal
from types import FrameType, TracebackType


class Interrupt:
    """A context in which both signals only set a flag; a second Ctrl-C interrupts at once, as usual."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def requested(self) -> bool:
        """Has a signal come?"""
        return self.signal is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signal is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)

    def __enter__(self) -> "Interrupt":
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: signals are somebody else's there
                continue
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
