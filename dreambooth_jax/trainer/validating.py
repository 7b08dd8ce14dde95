# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Validation between steps: when, with which weights, and what is made of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from dreambooth_jax import rng
from dreambooth_jax.config import Config
from dreambooth_jax.config.scores import VAL_LOSS
from dreambooth_jax.data.examples import Batch
from dreambooth_jax.diffusion.timesteps import quantiles
from dreambooth_jax.prepare.objective import objective_values
from dreambooth_jax.trainer.tables import example_tables
from dreambooth_jax.trainer.training import Training
from dreambooth_jax.training.metrics import Recorder
from dreambooth_jax.training.parallel.sharding import map_rows
from dreambooth_jax.training.state import TrainState
from dreambooth_jax.training.validation import LossHistory, loss_of_rows, rows_at_once, validation_batches


@dataclass(frozen=True, kw_only=True, eq=False)
class Validation:
    """The validations of a run.

    Attributes:
        training: the run.
        batches: held-out pictures; without any there is no validation.
        count: of their examples.
        every: steps between two.
        history: of all so far.
    """

    training: Training
    batches: Sequence[Batch]
    count: int
    every: int
    history: LossHistory

    def is_due(self, step: int) -> bool:
        """Every so many steps, and at the ends."""
        return bool(self.batches) and (step % self.every == 0 or step == self.training.setup.last_step)

    def at(self, step: int) -> dict[str, float]:
        """The loss of a step, by its name; empty where there is none."""
        losses = dict(self.history.losses)
        return {VAL_LOSS: losses[step]} if step in losses else {}

    @property
    def meta(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, so that a resumed run knows the best one; nothing without validation."""
        return {"validation": [[step, loss] for step, loss in self.history.losses]} if self.batches else {}

    def observe(self, step: int, values: Mapping[str, float]) -> None:
        """A listener: training losses, to compare with."""
        if "instance_loss" in values:
            self.history.trained.append((step, values["instance_loss"]))

    def run(self, step: int, state: TrainState, recorder: Recorder) -> None:
        """Validate where it is due. The weights are those that pictures are drawn with."""
        if not self.is_due(step) or any(at == step for at, _ in self.history.losses):
            return
        training = self.training
        mesh = training.setup.mapper.target.mesh
        params = training.drawn_params(state, "unet", *training.setup.encoders)
        key = rng.root_key(training.seed)
        losses = [map_rows(mesh, self._program, (), params, batch, key) for batch in self.batches]
        loss = sum(float(one) for some in losses for one in some)
        self.history.losses.append((step, loss))
        recorder.say(step, {"validation_loss": loss})

    @cached_property
    def _program(self) -> Any:
        return loss_of_rows(self.training.setup.objective, self.count)


def validation_of(config: Config, training: Training, *, meta: Mapping[str, Any], metrics: Path) -> Validation:
    """The validations that a run's settings ask for.

    Args:
        config: of the run.
        training: the run.
        meta: of the checkpoint that it goes on from, or empty.
        metrics: its file of metrics, of which the training losses so far are read.
    """
    setup, settings = training.setup, config.validation
    values = objective_values(config.objective, setup.pipe.schedule)
    tables = chain.from_iterable(
        example_tables(setup.pipe, one.held_out, one.captions, params={}, encode=False)
        for one in training.concepts
        if one.held_out
    )
    target = setup.mapper.target
    rows = rows_at_once(setup.batches.examples, len(target.devices)) * target.mesh.size
    batches = list(validation_batches(list(tables), quantiles(values.timesteps, settings.timesteps), rows=rows))
    losses = [(int(step), float(loss)) for step, loss in meta.get("validation", [])]
    return Validation(
        training=training,
        batches=batches,
        count=int(sum(batch["weight"].sum() for batch in batches)),
        every=settings.every,
        history=LossHistory(losses=losses, trained=_training_losses(metrics, before=training.first_step)),
    )


def _training_losses(path: Path, *, before: int) -> list[tuple[int, float]]:
    """Of a resumed run, up to the checkpoint; a torn or foreign line is passed over."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            values = json.loads(line)
            if values["step"] <= before:
                found.append((int(values["step"]), float(values["instance_loss"])))
        except (ValueError, KeyError, TypeError):
            continue
    return found
