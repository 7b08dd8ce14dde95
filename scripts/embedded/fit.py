# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""One loop for both networks' stages: batches in, moving average of the weights out, resumable at any moment.

    learning rate   0 ↗ peak over ``warmup``, constant, then ↘ 0 over the last ``cooldown`` of the steps
    average         trails the weights; what is shipped

The constant middle makes the number of steps a late decision: a run can be resumed with more, or with fewer.

Kernels are moved by Muon (Jordan et al. 2024), all else by Adam: on this autoencoder, at 350 steps of eight pictures,
22 dB where AdamW has 18.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn
from optax import contrib

from dreambooth_jax import rng
from dreambooth_jax.adapters import full
from dreambooth_jax.target import Target
from dreambooth_jax.training.checkpoint import Checkpoints
from dreambooth_jax.training.interrupt import Interrupt
from dreambooth_jax.training.parallel import Mapper, make_mapper
from dreambooth_jax.training.state import TrainState, init_state
from dreambooth_jax.training.step import Objective, TrainStep
from dreambooth_jax.trees import Tree, shapes

HostBatch = Mapping[str, np.ndarray]
_VECTORS_SHARE = 0.4
"""Of the kernels' learning rate, for what Adam moves."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """How long and how fast."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup: int = 200
    """Steps."""
    cooldown: float = 0.3
    """Share of the steps."""
    ema_decay: float = 0.999
    save_minutes: float = 3.0
    show_every: int = 0
    """Steps between sample grids; 0 makes none."""
    log_every: int = 50


def learning_rate(stage: Stage) -> optax.Schedule:
    """Step -> learning rate."""
    falling = max(int(stage.steps * stage.cooldown), 1)
    warmup = min(stage.warmup, stage.steps - falling)
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, stage.learning_rate, max(warmup, 1)),
            optax.constant_schedule(stage.learning_rate),
            optax.linear_schedule(stage.learning_rate, 0.0, falling),
        ],
        [warmup, stage.steps - falling],
    )


def muon(schedule: optax.Schedule) -> optax.GradientTransformation:
    """Kernels go along their momentum made orthogonal, inputs against outputs; biases, scales and embeddings, by NAdam.

    An orthogonal step is scaled to the size that Adam's steps have (arXiv 2502.16982), so that rates compare.
    """
    return contrib.muon(
        schedule,
        # not map_named: optax also asks for those of its placeholder for parameters, which is no dict
        muon_weight_dimension_numbers=lambda params: jax.tree_util.tree_map_with_path(_as_matrix, params),
        consistent_rms=0.2,
        adam_b2=0.99,
        adam_learning_rate=lambda step: _VECTORS_SHARE * schedule(step),
    )


def _as_matrix(path: Sequence[Any], leaf: jax.Array) -> contrib.MuonDimensionNumbers | None:
    if leaf.ndim < 2 or path[-1].key == "embedding":
        return None
    return contrib.MuonDimensionNumbers(reduction_axis=tuple(range(leaf.ndim - 1)), output_axis=(leaf.ndim - 1,))


def fit(
    objective: Objective,
    params: Tree,
    batch_at: Callable[[int], HostBatch],
    stage: Stage,
    folder: Path,
    *,
    seed: int = 0,
    show: Callable[[int, Tree], None] = lambda step, average: None,
) -> Tree:
    """Train all of ``params`` and return their moving average.

    Args:
        objective: the loss.
        params: initial values; the first level names the networks.
        batch_at: step -> global batch.
        stage: how long and how fast.
        folder: checkpoints and ``log.jsonl``. What it has is gone on from.
        seed: of everything random in the objective.
        show: called with a step and the average every ``stage.show_every`` steps.
    """
    mapper, adapter = make_mapper("auto", Target.here()), full(".*")
    frozen, trainable = adapter.init(rng.root_key(seed), params)
    schedule = learning_rate(stage)
    optimizers = {group: muon(schedule) for group in trainable}
    step_fn = TrainStep(
        objective=objective,
        adapter=adapter,
        optimizers=optimizers,
        active=tuple(trainable),
        ema_decay=stage.ema_decay,
    )
    checkpoints = Checkpoints(folder / "checkpoints", keep_last=2)
    state, first = _restored(checkpoints, mapper, init_state(trainable, optimizers, with_ema=True))
    state, frozen, advance = mapper.place(state), mapper.place(frozen), mapper.map(step_fn)
    log, saved = _Log(folder / "log.jsonl", stage, first), time.monotonic()
    batch = mapper.place_batch(dict(batch_at(first)))
    with Interrupt() as interrupt:
        for done in range(first + 1, stage.steps + 1):
            state, metrics = advance(state, frozen, batch, rng.root_key(seed))
            batch = mapper.place_batch(dict(batch_at(done)))  # made while the device works
            is_stopped = interrupt.requested()  # asked once: a signal may come at any line
            is_last = done == stage.steps or is_stopped
            if is_last or done % stage.log_every == 0:
                log.write(done, metrics)
            if is_last or time.monotonic() - saved > 60 * stage.save_minutes:
                checkpoints.save(mapper.logical(state), step=done, meta={})
                saved = time.monotonic()
            if is_stopped:
                checkpoints.close()
                raise SystemExit(f"stopped at step {done}; the same command goes on from there")
            if stage.show_every and done % stage.show_every == 0:
                show(done, mapper.logical(state).ema)
    checkpoints.close()
    return mapper.logical(state).ema


def _restored(checkpoints: Checkpoints, mapper: Mapper, state: TrainState) -> tuple[TrainState, int]:
    """The newest checkpoint's state and step, or the given ones of the start."""
    steps = checkpoints.steps()
    if not steps:
        return state, 0
    return checkpoints.restore(mapper.restore_target(shapes(state)), step=steps[-1]), steps[-1]


class _Log:
    """Lines of losses and speeds, each about the steps since the one before."""

    def __init__(self, file: Path, stage: Stage, step: int):
        self.file, self.stage, self.step, self.time = file, stage, step, time.monotonic()

    def write(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Waits for the step to be done."""
        losses = {name: float(f"{float(value):.5g}") for name, value in metrics.items()}
        steps, seconds = step - self.step, time.monotonic() - self.time
        examples = steps * self.stage.batch_size
        row = {"step": step, "steps": steps, "examples": examples, "seconds": round(seconds, 2), **losses}
        line = json.dumps({**row, "examples_per_second": round(examples / seconds, 1)})
        with self.file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(self.file.parent.name, line, flush=True)
        self.step, self.time = step, time.monotonic()


def initial(module: nn.Module, *inputs: jax.ShapeDtypeStruct, seed: int) -> Tree:
    """Random parameters of a module, made by one compiled program."""
    make = jax.jit(lambda key, *inputs: module.init(key, *inputs)["params"])
    return make(rng.root_key(seed), *(np.zeros(x.shape, x.dtype) for x in inputs))
