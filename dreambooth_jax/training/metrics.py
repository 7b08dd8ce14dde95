# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Numbers that leave the device: ``metrics.jsonl``, TensorBoard events, the progress bar, and the guard against NaN.

They are read late (:mod:`.late`). Before anything is saved, all of them are read.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
from tensorboardX import SummaryWriter

from dreambooth_jax.errors import InputError
from dreambooth_jax.progress import Progress
from dreambooth_jax.training.late import Late

Listener = Callable[[int, dict[str, float]], None]
"""``listener(step, values)``, for each line of metrics."""


class MetricsFiles:
    """``metrics.jsonl`` (one JSON object a line) and TensorBoard event files beside it.

    Args:
        run_dir: folder of the run.
        first_step: lines after it, left by an interrupted run, are dropped, so that every step is there once.
    """

    def __init__(self, run_dir: str | Path, *, first_step: int):
        self.path = Path(run_dir) / "metrics.jsonl"
        if self.path.exists():
            lines = self.path.read_text().splitlines()
            kept = [line for line in lines if _step_of(line) is not None and _step_of(line) <= first_step]
            self.path.write_text("".join(f"{line}\n" for line in kept))
        self._file = self.path.open("a")
        self._events = SummaryWriter(str(run_dir), purge_step=first_step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line, on disk at once.

        Raises:
            InputError: if it cannot be written, as on a full disk.
        """
        with self._writing():
            self._file.write(json.dumps({"step": step} | values) + "\n")
            self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close both."""
        with self._writing():
            try:
                self._file.close()
            finally:
                self._events.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"cannot write to {self.path}: {error.strerror}") from error


def _step_of(line: str) -> Any:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None  # the torn last line of a killed run


class Recorder(Late[dict[str, float]]):
    """Takes each step's device metrics and gives them to the files and the bar, a little later.

    Args:
        listeners: take the lines; none on the processes that write none. They check that the numbers are finite all the
            same: the numbers are the same everywhere, so all stop at the same one.
        first_step: steps taken before.
        steps: steps of the whole run.
        images_per_step: examples per step, for the speed.
        log_every: steps between two lines; a line holds the means since the last one.
        show_bar: on the screen.
    """

    def __init__(
        self,
        listeners: Sequence[Listener],
        *,
        first_step: int,
        steps: int,
        images_per_step: int,
        log_every: int,
        show_bar: bool = True,
    ):
        super().__init__(
            partial(Progress, total=steps, initial=first_step, desc="train", unit="step", disable=not show_bar)
        )
        self._listeners, self._log_every, self._images_per_step = listeners, log_every, images_per_step
        self._since: list[dict[str, float]] = []
        self._clock: float | None = None  # runs from the end of the first step, which compiles
        self._timed = 0
        self._steps = steps

    def say(self, step: int, values: dict[str, float]) -> None:
        """A line of its own, after those of all steps so far.

        Raises:
            NonFinite: naming the step, if a number is not finite.
        """
        self.flush()
        for name, value in values.items():
            if not math.isfinite(value):
                raise NonFinite(f"{name} is {value} at step {step}")
        for listener in self._listeners:
            listener(step, values)

    def _read(self) -> None:
        step, arrays, extra = self._pending.popleft()
        self.record(step, {name: float(value) for name, value in jax.device_get(arrays).items()}, extra)

    def record(self, step: int, values: dict[str, float], extra: dict[str, float]) -> None:
        """A step's metrics, as numbers of the host.

        Raises:
            NonFinite: naming the step, if the loss or the gradient's norm is not finite.
        """
        check_finite(values, step)
        self._since.append(values)
        now = time.perf_counter()
        if self._clock is None:
            self._clock = now
        else:
            self._timed += 1
        speed = self._images_per_step * self._timed / (now - self._clock) if self._timed else 0.0
        if self._bar is not None:
            shown = {"images_per_s": f"{speed:.2f}"} if self._timed else {}
            self._bar.set_postfix(loss=f"{values['loss']:.4f}", **shown, refresh=False)
            self._bar.update(1)
        if step % self._log_every == 0 or step == self._steps:
            means = {name: sum(v[name] for v in self._since) / len(self._since) for name in values}
            speeds = {"images_per_second": speed} if self._timed else {}
            for listener in self._listeners:
                listener(step, means | extra | speeds)
            self._since, self._clock, self._timed = [], now, 0


class NonFinite(InputError):
    """A loss, a gradient or a weight is NaN or infinite."""


def check_finite(values: dict[str, float], step: int) -> None:
    """Raise :class:`NonFinite`, naming step and number, unless loss and gradient norm are finite."""
    for name in ("loss", "grad_norm"):
        if not math.isfinite(values[name]):
            raise NonFinite(f"{name} is {values[name]} at step {step}")
