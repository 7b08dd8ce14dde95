# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Ctrl-C from the first moment on.

Python raises KeyboardInterrupt wherever it happens to be. In the middle of an import, where most of the first seconds
are spent, that is often swallowed, or becomes another error; nothing is written by then, so the process just ends.
"""

import os
import signal
from types import FrameType, TracebackType

IMPORTING = "<frozen importlib._bootstrap>"


class CtrlC:
    """A context in which Ctrl-C ends the command, also in the middle of an import.

    Attributes:
        pressed: has it been?
    """

    def __init__(self) -> None:
        self.pressed = False
        self._ours = False

    def _end(self, number: int, frame: FrameType | None) -> None:
        del number
        self.pressed = True
        while frame is not None:
            if frame.f_code.co_filename == IMPORTING:
                os._exit(130)
            frame = frame.f_back
        raise KeyboardInterrupt

    def __enter__(self) -> "CtrlC":
        # a shell that starts a command in the background has it ignore Ctrl-C: that stays
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            try:
                signal.signal(signal.SIGINT, self._end)
                self._ours = True
            except ValueError:  # not the main thread: signals are somebody else's there
                pass
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
