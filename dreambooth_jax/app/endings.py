# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How a command ended that takes care of SIGTERM itself.

A training that SIGTERM ends has saved, and its own exit code is 0: here it is ``STOPPED``, as shells call it, so that
nobody takes it for one that is done.
"""

import signal
import socket
from collections.abc import Callable

STOPPED = 128 + signal.SIGTERM


def code_of(command: Callable[[], int]) -> int:
    """The exit code of a command; ``STOPPED`` where it ended well after SIGTERM, which it takes care of itself."""
    heard, said = socket.socketpair()
    with heard, said:
        heard.setblocking(False)
        said.setblocking(False)
        # whatever handler a command sets, the numbers of signals that it gets are written here
        before = signal.set_wakeup_fd(said.fileno(), warn_on_full_buffer=False)
        try:
            code = command()
        finally:
            signal.set_wakeup_fd(before)
        try:
            signals = heard.recv(4096)
        except BlockingIOError:
            signals = b""
    return STOPPED if code == 0 and signal.SIGTERM in signals else code
