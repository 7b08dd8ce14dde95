# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Tiny runs: five drawn photos, a random model of a few hundred kilobytes, a handful of steps."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageDraw

from dreambooth_jax import trees
from dreambooth_jax.config import Config, load_config
from dreambooth_jax.memory import Usage
from dreambooth_jax.planning.build import build
from dreambooth_jax.planning.measure import Measured
from dreambooth_jax.planning.result import Plan
from dreambooth_jax.target import Target
from dreambooth_jax.training import loop
from dreambooth_jax.training.checkpoint import complete_steps, read_weights

MODEL = Path(__file__).parent / "fixtures" / "legacy_flax_sd15"


def draw_photos(folder: Path, n: int = 5) -> Path:
    """Ovals on plain grounds."""
    folder.mkdir(parents=True, exist_ok=True)
    r = np.random.default_rng(0)
    for i in range(n):
        picture = Image.new("RGB", (60 + 10 * i, 50), tuple(r.integers(0, 255, 3).tolist()))
        ImageDraw.Draw(picture).ellipse((10 + i, 10, 40, 40), fill=(250, 20, 40))
        picture.save(folder / f"{i}.png")
    return folder


def tiny_config(root: Path, *overrides: str) -> Config:
    """Six steps at 16 pixels; photos are drawn where they are not there."""
    photos = root / "photos"
    if not photos.exists():
        draw_photos(photos)
    return load_config(
        None,
        [
            f"run_dir={root / 'run'}",
            f"model.path={MODEL}",
            f"data.instance_images={photos}",
            "data.class_noun=dog",
            "data.resolution=16",
            "prior.num_images=6",
            "prior.steps=2",
            "prior.batch_size=1",
            f"prior.class_images={root / 'class'}",
            "optimizer.learning_rate=1e-3",
            "train.steps=6",
            "train.log_every=1",
            "train.batch_size=4",
            "checkpoint.every=3",
            "checkpoint.keep_last=9",
            "samples.every=0",
            *overrides,
        ],
    )


def weights(folder: Path, step: int, *, ema: bool = False) -> dict[str, np.ndarray]:
    """Name -> leaf of what was trained, from a run's checkpoint."""
    leaves = trees.flatten(read_weights(folder / "checkpoints", step, ema=ema))
    return {name: np.asarray(leaf) for name, leaf in leaves.items()}


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    """Bit for bit."""
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def cut_short(whole: Path, step: int, to: Path) -> Path:
    """A copy of a run as it lies there when it was killed after it had saved that step and before it saved another.

    It costs no run of its own; what a signal is answered with does not depend on what is trained (:func:`killed_at`).
    """
    shutil.copytree(whole, to, ignore=shutil.ignore_patterns("model", "*.safetensors", "exported.json"))
    saved = complete_steps(to / "checkpoints")
    assert step in saved
    for later in (number for number in saved if number > step):
        shutil.rmtree(to / "checkpoints" / str(later))
    return to


def killed_at(step: int, process: int = 0, sent: signal.Signals = signal.SIGTERM):
    """A ``run_phases`` in which that process gets a signal when so many steps are taken."""

    def hook(number, state):
        if number == step and jax.process_index() == process:
            os.kill(os.getpid(), sent)

    def run_phases(state, *, hooks, **options):
        return loop.run_phases(state, hooks=[hook, *hooks], **options)

    return run_phases


def traced_plan(config: Config) -> Plan:
    """The plan of a run on one device, whose programs are traced but not compiled: for what does not depend on XLA."""

    def trace(name, lower):
        lower()
        return Measured(usage=Usage(arguments=1, results=1, temporaries=1))

    return build(config, Target.of(jax.devices()[:1]), compiler=trace)


def programs_of_run(root: Path, *overrides: str) -> dict[str, int]:
    """Programs that a tiny run on one device asks for, in a process of its own: how often each is compiled, and
    ``misses``, those that were not kept from before."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    ended = subprocess.run(
        [sys.executable, "-m", "tests.count_compiles", str(root), *overrides],
        env=environment | {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])
