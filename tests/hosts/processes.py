# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Really starting several processes, each with CPU devices of its own, that find each other on this machine."""

import argparse
import os
import socket
import subprocess
import sys
from pathlib import Path

from dreambooth_jax import distributed

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """One that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(command, *, processes=2, devices=2, environment=None):
    """``python COMMAND --coordinator ... --process_id I`` for each I. Returns them, running."""
    where = ["--coordinator", f"127.0.0.1:{free_port()}", "--num_processes", str(processes)]
    settings = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "default",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": "",
        **(environment or {}),
    }
    return [
        subprocess.Popen(
            [sys.executable, *command, *where, "--process_id", str(number)],
            env=settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]


def join():
    """Of a process that :func:`start` has started: find the others. Returns the folder that its command names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    for name, kind in {"coordinator": str, "num_processes": int, "process_id": int}.items():
        parser.add_argument(f"--{name}", type=kind)
    options = vars(parser.parse_args())
    folder = options.pop("folder")
    distributed.start(**options)
    return folder


def finish(running, *, timeout=240):
    """Wait for all; [(exit code, what it printed, what it said on stderr)]. None outlives the call."""
    try:
        said = [one.communicate(timeout=timeout) for one in running]
        return [(one.returncode, *texts) for one, texts in zip(running, said)]
    finally:
        for one in running:
            one.kill()


def run(command, *, timeout=240, **options):
    """:func:`start`, then :func:`finish`, and all must have ended well."""
    ended = finish(start(command, **options), timeout=timeout)
    for code, out, err in ended:
        assert code == 0, f"{out}\n{err}"
    return ended
