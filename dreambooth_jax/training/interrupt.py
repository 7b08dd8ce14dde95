# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Stopping politely: SIGTERM (a preempted machine) and the first Ctrl-C end the run after the step at hand.

Of several processes each may hear of it at another step, or one alone, but all must stop after the same: so with every
step the flags of all of them go through a maximum over all devices. Nobody waits for it. It is read ``LAG`` steps
later, when it has long been there, and it is the same maximum on every process: so all stop after that step.
"""

import signal
from collections import deque
from collections.abc import Callable
from functools import cache
from types import FrameType, TracebackType

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dreambooth_jax import distributed

LAG = 2


class Interrupt:
    """A context in which both signals only set a flag; a second Ctrl-C interrupts at once, as usual.

    Args:
        should_stop: another way to ask for the end.

    Attributes:
        signal: the one that came, or None.
    """

    def __init__(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        self.signal: signal.Signals | None = None
        self._should_stop = should_stop
        self._previous: dict[signal.Signals, object] = {}

    def requested(self) -> bool:
        """Has a signal come, or anybody else asked for the end?"""
        return self.signal is not None or self._should_stop()

    def requested_anywhere(self) -> bool:
        """Has any process been asked for the end? Asked by all together; waits for all, so not for every step."""
        return bool(distributed.gather(self.requested()).any())

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signal is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)

    def __enter__(self) -> "Interrupt":
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: signals are somebody else's there
                continue
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


class StopSign:
    """``sign(step)`` after each step: is it the last? The same answer on all processes, however often one asks.

    Args:
        requested: what this process alone has heard.
    """

    def __init__(self, requested: Callable[[], bool]):
        self._requested = requested
        self._asked: deque[jax.Array] = deque()
        self._answered: tuple[int, bool] = (-1, False)

    def __call__(self, step: int) -> bool:
        """Is this step, of which there is one question at least, the last?"""
        if step != self._answered[0]:
            self._answered = step, self._answer()
        return self._answered[1]

    def _answer(self) -> bool:
        if jax.process_count() == 1:
            return self._requested()
        self._asked.append(_maximum(self._requested()))
        return len(self._asked) > LAG and bool(self._asked.popleft())


def _maximum(flag: bool) -> jax.Array:
    split, maximum = _over_all_devices()
    flags = jax.make_array_from_process_local_data(split, np.full(jax.local_device_count(), flag))
    return maximum(flags)


@cache
def _over_all_devices() -> tuple[NamedSharding, Callable[[jax.Array], jax.Array]]:
    mesh = Mesh(np.asarray(jax.devices()), ("all",))
    whole = NamedSharding(mesh, PartitionSpec())
    return NamedSharding(mesh, PartitionSpec("all")), jax.jit(jnp.any, out_shardings=whole)
