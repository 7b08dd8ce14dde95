# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Metrics of members that take their steps together: each one's own go to its own recorder.

A member whose numbers are not finite is stopped, and named; the others go on.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax

from dreambooth_jax import distributed
from dreambooth_jax.progress import Progress
from dreambooth_jax.training.late import Late
from dreambooth_jax.training.metrics import NonFinite, Recorder

log = logging.getLogger(__name__)


class Stop(NamedTuple):
    """Why a member has been stopped, and how many steps it had taken."""

    step: int
    why: str


class MemberRecorder(Late[Sequence[dict[str, float]]]):
    """Takes each step's metrics [S] and gives members their own, a little later.

    Args:
        names: of the members.
        recorders: of each, none of which shows a bar; None where nobody is.
        steps: that each takes.
        first_step: steps of all taken before.
        stopped: members that are stopped already, by their numbers.

    Attributes:
        stopped: by their numbers.
    """

    def __init__(
        self,
        names: Sequence[str],
        recorders: Sequence[Recorder | None],
        *,
        steps: Sequence[int],
        first_step: int,
        stopped: Mapping[int, Stop] | None = None,
    ):
        super().__init__(
            partial(
                Progress,
                total=max(steps),
                initial=first_step,
                desc=f"train {sum(one is not None for one in recorders)} members",
                unit="step",
                disable=not distributed.is_main(),
            )
        )
        self.stopped = dict(stopped or {})
        self._names, self._recorders, self._steps = names, recorders, steps
        self._first, self._clock = first_step, 0.0

    def running(self, step: int) -> list[int]:
        """Numbers of members that are not stopped and take, or have just taken, so many steps."""
        return [
            number
            for number, recorder in enumerate(self._recorders)
            if recorder is not None and number not in self.stopped and step <= self._steps[number]
        ]

    def recorder(self, number: int) -> Recorder:
        """Of a member."""
        recorder = self._recorders[number]
        assert recorder is not None
        return recorder

    def guarded(self, number: int, *, step: int, action: Callable[[], None]) -> None:
        """Do something for a member, and stop it if that finds a number that is not finite."""
        try:
            action()
        except NonFinite as error:
            self.stop(number, Stop(step, str(error)))

    def stop(self, number: int, stop: Stop) -> None:
        """A member takes no further step."""
        self.stopped[number] = stop
        log.warning("%s is stopped after step %d: %s; the others go on", self._names[number], *stop)

    def _read(self) -> None:
        step, arrays, extra = self._pending.popleft()
        found = jax.device_get(arrays)
        running = self.running(step)
        for number in running:
            values = {name: float(of_all[number]) for name, of_all in found.items() if name != "active"}
            record = partial(self.recorder(number).record, step, values, extra[number])
            self.guarded(number, step=step - 1, action=record)
        self._show(step, [float(found["loss"][number]) for number in running if number not in self.stopped])

    def _show(self, step: int, losses: Sequence[float]) -> None:
        if self._bar is None:
            return
        now = time.perf_counter()
        shown: dict[str, Any] = {}
        if losses:
            shown["loss"] = f"{min(losses):.4f} to {max(losses):.4f}"
        if self._clock:
            shown["steps_per_s"] = f"{(step - self._first) / (now - self._clock):.2f}"
        else:
            self._first, self._clock = step, now  # from the end of the first step, which compiles
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(1)
