# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The loop: step, next batch, metrics, hooks. It dispatches and never waits, but where a hook does.

While the devices work on a step, the host draws the next one's batch and sends it after.

A run falls into phases, stretches in which the same groups are trained. Each has its own compiled step, and its own
texts: states where the text encoder rests (as it is by then), token ids where it is trained.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Key

from dreambooth_jax.training.parallel import MappedStep
from dreambooth_jax.training.state import TrainState

Hook = Callable[[int, TrainState], None]


@runtime_checkable
class Data(Protocol):
    """Batches as a function of the step, such as a :class:`~dreambooth_jax.data.mixture.Mixture`."""

    def batch_at(self, step: int, rows: Callable[[int], slice] = ..., /) -> Any: ...


@runtime_checkable
class Placing(Protocol):
    """Brings rows onto devices, such as a :class:`~dreambooth_jax.training.parallel.Mapper`."""

    def rows(self, count: int, /) -> slice: ...

    def place_batch(self, batch: Any, /) -> Any: ...


@runtime_checkable
class Record(Protocol):
    """Takes the metrics of steps, such as a :class:`~dreambooth_jax.training.metrics.Recorder`."""

    def push(self, step: int, metrics: dict[str, Array], extra: Any, /) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Steps ``start`` up to, but without, ``stop`` train the ``active`` groups."""

    start: int
    stop: int
    active: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PhaseInputs:
    """What a phase runs with; made when it begins.

    Attributes:
        step: mapped over the devices.
        frozen: placed parameters that the step needs besides the trained ones.
        data: batches as a function of the step.
        learning_rates: of each trained group at a step, for the log.
    """

    step: MappedStep
    frozen: Any
    data: Data
    learning_rates: Callable[[int], Any]

    def batch_at(self, step: int, mapper: Placing) -> Any:
        """This process's rows of a step's batch, or of each of its parts, on their way to its devices."""
        return mapper.place_batch(self.data.batch_at(step, mapper.rows))


def split_phases(*, steps: int, stretches: Mapping[str, Sequence[tuple[int, int]]]) -> list[Phase]:
    """Phases of a run, in order; the same groups are trained throughout a phase, and others in the next.

    Args:
        steps: of the whole run.
        stretches: of each group of what is trained, the first step that trains it and the first that no longer does,
            within the run; several, where several runs are taken together.
    """
    ends = {group: [(start, stop) for start, stop in some if start < stop] for group, some in stretches.items()}
    cuts = sorted({0, steps, *(cut for some in ends.values() for stretch in some for cut in stretch)})
    phases: list[Phase] = []
    for start, stop in pairwise(cuts):
        trained = (group for group, some in ends.items() if any(first <= start < last for first, last in some))
        active = tuple(sorted(trained))
        if phases and phases[-1].active == active:
            start = phases.pop().start
        phases.append(Phase(start=start, stop=stop, active=active))
    return phases


def run_phases(
    state: TrainState,
    *,
    first_step: int,
    phases: Sequence[Phase],
    inputs_for: Callable[[Phase, TrainState], PhaseInputs],
    mapper: Placing,
    root_key: Key[Array, "..."],
    recorder: Record,
    hooks: Sequence[Hook],
    should_stop: Callable[[int], bool],
) -> tuple[TrainState, int]:
    """Train from ``first_step`` to the end of the last phase, or until ``should_stop``.

    Args:
        state: placed by the mapper; it is donated.
        first_step: steps taken before.
        phases: in order.
        inputs_for: makes what a phase needs, from the state at its beginning.
        mapper: places batches.
        root_key: everything random descends from it; of several runs that are taken together, one each.
        recorder: takes the metrics.
        hooks: called as ``hook(steps taken, state)`` after each step.
        should_stop: asked after each step, with the number of steps taken.

    Returns:
        The state and the number of steps taken.
    """
    for phase in phases:
        if phase.stop <= first_step:
            continue
        phase_inputs = inputs_for(phase, state)
        start = max(phase.start, first_step)
        batch = phase_inputs.batch_at(start, mapper)
        for step in range(start, phase.stop):
            state, metrics = phase_inputs.step(state, phase_inputs.frozen, batch, root_key)
            if step + 1 < phase.stop:
                batch = phase_inputs.batch_at(step + 1, mapper)
            recorder.push(step + 1, metrics, phase_inputs.learning_rates(step))
            for hook in hooks:
                hook(step + 1, state)
            if should_stop(step + 1):
                return state, step + 1
    return state, phases[-1].stop
