# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""One run at a time in a folder: a lock that the system takes back when its process ends, however it ends."""

import errno
import fcntl
import logging
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dreambooth_jax import distributed
from dreambooth_jax.errors import InputError

log = logging.getLogger(__name__)

FILE = ".lock"
FILES = 8
"""That a run holds open: its lock, its metrics and what writes them, and some to spare."""
BESIDES = 1024
"""Files of a process that are of no run."""


class InUseError(InputError):
    """A folder is another run's: nothing is wrong with what was to be done there, and nothing may be written."""


def allow_open_files(runs: int) -> None:
    """Let this process hold the files of so many runs, as far as the system lets it without being asked."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = BESIDES + FILES * runs
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with suppress(ValueError, OSError):  # a system may allow less than it says; then opening a file says so
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextmanager
def locked(folder: Path, *, key: str = "run_dir") -> Iterator[None]:
    """Keep other runs out of a folder, which is made if it is not there and goes again if nothing was put there.

    Of several processes of one run process 0 holds the lock; all have to enter together.

    Args:
        folder: of the run, or one that runs share.
        key: the setting that names it.

    Raises:
        InUseError: if another run holds it.
        InputError: if nothing can be written there.
    """
    handle, holder = _acquire(folder, key) if distributed.is_main() else (None, "")
    try:
        if distributed.gather(bool(holder))[0]:
            raise InUseError(
                f"{folder} is in use by another run ({holder or 'seen by process 0'}): wait for it, stop it, or choose "
                f"another {key}"
            )
        yield
    finally:
        if handle is not None:
            _release(folder, handle)


def _acquire(folder: Path, key: str) -> tuple[int | None, str]:
    """(open file that holds the lock, or None; who else holds it)."""
    try:
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(handle, 200).decode(errors="replace").strip()
                os.close(handle)
                return None, holder or "which has just begun"
            except OSError as error:
                os.close(handle)
                log.warning("%s cannot be locked (%s): start no second run there", folder, error.strerror)
                return None, ""
            if _is_still_there(folder, handle):
                os.truncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return handle, ""
            os.close(handle)  # the one before us has just removed it: what we hold nobody else would find
    except OSError as error:
        way = ""
        if error.errno == errno.EMFILE:
            way = ": raise the limit (ulimit -n), or train fewer at once (--at_once)"
            with suppress(OSError):
                folder.rmdir()  # where it was made for the lock
        raise InputError(f"cannot write to {key} {folder}: {error.strerror}{way}") from error


def _is_still_there(folder: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(folder / FILE), os.fstat(handle))
    except FileNotFoundError:
        return False


def _release(folder: Path, handle: int) -> None:
    """Nothing stays of the lock, nor of a folder that was made for it alone."""
    try:
        (folder / FILE).unlink()
        folder.rmdir()
    except OSError:
        pass  # there is something, or somebody removed it all
    finally:
        os.close(handle)
