# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``dreambooth-jax app`` in a process of its own, with the embedded model and runs of a few steps."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from dreambooth_jax.app.jobs import Job, JobFiles

SHORT = """\
model: {path: embedded}
data: {instance_images: embedded, class_noun: alien, resolution: 64, instance_prompt: 'a {identifier} {class_noun}'}
prior: {class_prompt: 'an {class_noun}', num_images: 3, steps: 2, batch_size: 8}
adapter: {kind: lora, targets: [attn-only]}
optimizer: {learning_rate: 1e-3}
text_encoder: {stop: -1}
train: {steps: 15, batch_size: 1, log_every: 1}
checkpoint: {every: 2}
samples: {prompts: ['a {identifier} {class_noun}'], class_prompts: [], num_images: 1, steps: 2}
"""
"""What the slider's second place, which it begins at, makes six steps of."""
SHORTEST = "short.yaml"


class Served:
    """A page at ``url``, which may be killed and started again.

    Args:
        folder: of all that it writes.
        told: settings of the command line besides.
    """

    def __init__(self, folder: Path, *told: str):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SHORTEST).write_text(SHORT)
        config = os.environ.get("DREAMBOOTH_JAX_PAGE") or SHORTEST
        self._words = [f"configs={config}", *told]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Begin, and wait until it answers."""
        words = ["app", f"port={self.port}", "folder=app", *self._words]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dreambooth_jax", *words],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
            )
        while not self.answers():
            assert self.process.poll() is None, self.said()
            time.sleep(0.1)

    def answers(self) -> bool:
        """Does it?"""
        try:
            with urllib.request.urlopen(self.url, timeout=20):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    def kill(self) -> None:
        """At once, without a word."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """With all that it has started."""
        self.kill()
        for job in self.jobs():
            if job.state in ("running", "stopping"):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(job.pid, signal.SIGKILL)

    def jobs(self) -> list[Job]:
        """Of everybody."""
        return JobFiles(self.folder / "app" / "jobs").read()

    def said(self) -> str:
        """What it has printed."""
        return (self.folder / "log").read_text(errors="replace")
