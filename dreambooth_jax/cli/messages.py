# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What the command line says on the way: our own lines and everybody's warnings."""

import logging
import os
import sys
import threading
import warnings
from pathlib import Path


class _BesideBars(logging.StreamHandler):
    """Lines on stderr that do not run into a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        if "tqdm" in sys.modules:
            from tqdm import tqdm

            tqdm.write(self.format(record), file=self.stream)
        else:
            super().emit(record)


def plain_messages() -> None:
    """Our own lines and everybody's warnings, plainly; nothing of what libraries tell of their own doings."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_BesideBars()])
    logging.getLogger("dreambooth_jax").setLevel(logging.INFO)
    _quiet_threads()
    # the hub's library warns of every retry; what they end with is an error, which is told
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    logging.captureWarnings(True)
    warnings.formatwarning = lambda message, *_, **__: str(message)


def _quiet_threads() -> None:
    """Where a disk is full, hundreds of writes of Orbax and TensorBoard fail, each with a traceback of its own. The run
    learns of it from what it waits for, and says so in one line."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    of_thread, of_callback = threading.excepthook, sys.unraisablehook

    def is_told_elsewhere(error: BaseException | None) -> bool:
        return isinstance(error, OSError) or "Event loop is closed" in str(error)

    threading.excepthook = lambda what: None if is_told_elsewhere(what.exc_value) else of_thread(what)
    sys.unraisablehook = lambda what: None if is_told_elsewhere(what.exc_value) else of_callback(what)


def print_result(path: Path | str) -> None:
    """The one line on stdout: what there is to look at. Of several processes, process 0 prints it."""
    from dreambooth_jax.distributed import is_main

    if is_main():
        print(path)
