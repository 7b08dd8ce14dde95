# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Photos to a model, as a user waits for it: each in a process of its own, from its start to the files of the result.

Ours runs twice, first with an empty folder for compiled programs, then with what the first left there.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

SCRIPT = Path(__file__).parents[1].resolve() / "benchmark.py"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to do: ``class_images`` made ``batch`` at a time in ``draw_steps``, then ``steps`` at 1 + 1."""

    class_images: int
    batch: int
    draw_steps: int
    steps: int


def measure_whole(peer: str, size: str, model: Path, job: Job, cache: Path) -> dict[str, float]:
    """Seconds, processor seconds and the process's peak in bytes.

    Raises:
        RuntimeError: if it failed.
    """
    numbers = ",".join(map(str, asdict(job).values()))
    command = [str(SCRIPT), "--size", size, "--folder", str(model), "--whole", f"{peer}:{numbers}"]
    return measure_process(peer, command, cache)


def measure_process(name: str, command: list[str], cache: Path) -> dict[str, float]:
    """Seconds, processor seconds and the peak in bytes of a process of this Python that keeps programs in ``cache``.

    Raises:
        RuntimeError: if it failed, with the end of what it said.
    """
    python_path = os.pathsep.join(filter(None, [str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {
        "PYTHONPATH": python_path,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "HF_HUB_OFFLINE": "1",
    }
    with tempfile.TemporaryFile() as log:
        begin = time.perf_counter()
        process = subprocess.Popen([sys.executable, *command], env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"{name}: {log.read().decode(errors='replace')[-2000:]}")
    kilobytes = 1 if sys.platform == "darwin" else 1024
    return {
        "median": seconds,
        "best": seconds,
        "processor": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * kilobytes,
    }


def run_whole(task: str, model: Path, configs: dict[str, dict[str, Any]]) -> None:
    """What the process does."""
    peer, numbers = task.split(":")
    job = Job(**dict(zip(Job.__dataclass_fields__, map(int, numbers.split(",")))))
    pixels = configs["vae"]["sample_size"]
    photos = np.random.default_rng(0).integers(0, 255, (4, pixels, pixels, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        if peer == "ours":
            personalise(model, photos, Path(folder), pixels, job)
        else:
            from benchmark.pytorch import Torch

            Torch(model, configs, compiled=peer == "compile").personalise(photos, Path(folder), **asdict(job))


def personalise(model: Path, photos: np.ndarray, folder: Path, pixels: int, job: Job) -> None:
    """Our run; on one device, as PyTorch's."""
    from PIL import Image

    import dreambooth_jax as dbx

    (folder / "photos").mkdir()
    for number, photo in enumerate(photos):
        Image.fromarray(photo).save(folder / "photos" / f"{number}.png")
    settings = {
        "run_dir": folder / "run",
        "model.path": model,
        "data.instance_images": folder / "photos",
        "data.class_noun": "dog",
        "data.resolution": pixels,
        "prior.num_images": job.class_images,
        "prior.batch_size": job.batch,
        "prior.steps": job.draw_steps,
        "train.steps": job.steps,
        "checkpoint.every": job.steps,
        "samples.every": 0,
    }
    dbx.train(dbx.load_config(None, [f"{key}={value}" for key, value in settings.items()]))
