# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The state is saved after steps where a checkpoint is due."""

from collections.abc import Callable, Mapping
from typing import Any

from dreambooth_jax.training.checkpoint import Checkpoints
from dreambooth_jax.training.finite import check_state_finite
from dreambooth_jax.training.loop import Hook
from dreambooth_jax.training.metrics import Recorder
from dreambooth_jax.training.parallel import Mapper
from dreambooth_jax.training.state import TrainState
from dreambooth_jax.trees import Tree


def saving(
    checkpoints: Checkpoints,
    mapper: Mapper,
    recorder: Recorder,
    *,
    every: int,
    last: int,
    should_stop: Callable[[int], bool],
    meta: Callable[[], Mapping[str, Any]],
    averaged: Callable[[TrainState], Tree],
    is_best: Callable[[int], bool] = lambda step: False,
) -> Hook:
    """A hook that saves the state where a checkpoint is due: every so many steps, at the end, whatever brings it, and
    where it is the best one so far.

    It raises ``NonFinite`` where a metric of any step so far, or a number that would be saved, is not finite.
    """

    def save(step: int, state: TrainState) -> None:
        if step % every and step != last and not should_stop(step) and not is_best(step):
            return
        recorder.flush()
        check_state_finite(state, step)
        average = mapper.logical(averaged(state))
        checkpoints.save(mapper.logical(state), step=step, meta=dict(meta()), averaged=average)

    return save
