# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What happens after steps of a group: validations, pictures, checkpoints."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from dreambooth_jax.trainer.grids import sampling
from dreambooth_jax.trainer.members.one import One
from dreambooth_jax.training.checkpoint import Checkpoints
from dreambooth_jax.training.finite import members_not_finite
from dreambooth_jax.training.loop import Hook
from dreambooth_jax.training.member_metrics import MemberRecorder, Stop
from dreambooth_jax.training.parallel.members import MemberMapper
from dreambooth_jax.training.state import TrainState


def looking(members: Sequence[One], recorder: MemberRecorder) -> tuple[Hook, Hook]:
    """(validates members, draws their pictures), those for whom it is due."""
    draws = {one.number: sampling(one.grids, one.training) for one in members}

    def validate(step: int, state: TrainState) -> None:
        if any(one.quality.is_due(step) for one in members):
            recorder.flush()  # who is stopped by then is not validated
        due = [one for one in _running(members, recorder, step) if one.quality.is_due(step)]
        for one in due:
            own = one.state(state)
            run = partial(one.quality.run, step, own, recorder.recorder(one.number))
            recorder.guarded(one.number, step=step, action=run)
            if one.number not in recorder.stopped and one.quality.is_best(step):
                one.save(own, step=step)

    def draw(step: int, state: TrainState) -> None:
        for one in _running(members, recorder, step):
            if one.grids.are_due(step):
                draws[one.number](step, one.state(state))

    return validate, draw


def _running(members: Sequence[One], recorder: MemberRecorder, step: int) -> list[One]:
    running = recorder.running(step)
    return [one for one in members if one.number in running]


def saving(
    checkpoints: Checkpoints,
    mapper: MemberMapper,
    recorder: MemberRecorder,
    *,
    every: int,
    last: int,
    should_stop: Callable[[int], bool],
    meta: Callable[[int], Mapping[str, Any]],
) -> Hook:
    """A hook that saves the state of all members where a checkpoint is due.

    Whose state is not finite is stopped: nobody goes on from it.
    """

    def save(step: int, state: TrainState) -> None:
        if step % every and step != last and not should_stop(step):
            return
        recorder.flush()
        running = recorder.running(step)
        for number, why in members_not_finite(state, step).items():
            if number in running:
                recorder.stop(number, Stop(step, why))
        checkpoints.save(mapper.logical(state), step=step, meta=dict(meta(step)))

    return save
