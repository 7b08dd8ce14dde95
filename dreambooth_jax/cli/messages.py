# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What the command line says on the way: our own lines and everybody's warnings."""

import logging
import os
import warnings
from pathlib import Path


def plain_messages() -> None:
    """Our own lines and everybody's warnings, plainly; nothing of what libraries tell of their own doings."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("dreambooth_jax").setLevel(logging.INFO)
    # What Orbax's threads fail with, hundreds of times where a disk is full, also reaches us, and is told once.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # the hub's library warns of every retry; what they end with is an error, which is told
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    logging.captureWarnings(True)
    warnings.formatwarning = lambda message, *_, **__: str(message)


def print_result(path: Path | str) -> None:
    """The one line on stdout: what there is to look at. Of several processes, process 0 prints it."""
    from dreambooth_jax.distributed import is_main

    if is_main():
        print(path)
