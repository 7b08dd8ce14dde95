# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How each group of what is trained is trained: its stretch of the run, learning rate and optimizer."""

from collections.abc import Sequence
from dataclasses import dataclass

import optax

from dreambooth_jax.config import Config
from dreambooth_jax.training.optimizer import Schedule, learning_rate_schedule
from dreambooth_jax.training.optimizer_kinds import make_optimizer
from dreambooth_jax.training.rules import Rule, Treatment, by_treatment
from dreambooth_jax.trees import Tree


@dataclass(frozen=True, kw_only=True)
class GroupTraining:
    """How one group is trained, in steps ``start`` up to, but without, ``stop``.

    Its schedule runs over this stretch, warm-up included, and counts the group's own steps.
    """

    start: int
    stop: int
    schedule: Schedule
    optimizer: optax.GradientTransformation


def group_training(
    config: Config,
    name: str,
    tree: Tree,
    *,
    networks: Sequence[str],
    encoders: Sequence[str],
    rules: Sequence[Rule] = (),
) -> GroupTraining:
    """How a group is trained: what the settings of the text encoder say, if it changes nothing else, else all the run.

    Args:
        config: of the run.
        name: of the group.
        tree: shapes of what it trains.
        networks: that it changes.
        encoders: networks that read prompts.
        rules: other rates of some leaves.
    """
    text, settings = config.text_encoder, config.optimizer
    only_reads = set(networks) <= set(encoders)
    start, stop = text.stretch(config.train.steps) if only_reads else (0, config.train.steps)
    peak = text.learning_rate if only_reads and text.learning_rate is not None else settings.learning_rate
    base = Treatment(peak, settings.weight_decay, settings.schedule, settings.warmup_steps)

    def schedule_of(treatment: Treatment) -> Schedule:
        return learning_rate_schedule(
            treatment.schedule,
            peak=treatment.learning_rate,
            steps=stop - start,
            warmup_steps=treatment.warmup_steps,
            power=settings.power,
            cycles=settings.cycles,
        )

    def optimizer_of(treatment: Treatment) -> optax.GradientTransformation:
        return make_optimizer(
            settings.kind,
            schedule_of(treatment),
            group=name,
            steps=stop - start,
            beta1=settings.beta1,
            beta2=settings.beta2,
            eps=settings.eps,
            moments=settings.moments,
            weight_decay=treatment.weight_decay,
            no_decay=settings.no_decay,
        )

    optimizer = by_treatment(name, tree, rules=rules, base=base, make=optimizer_of)
    return GroupTraining(start=start, stop=stop, schedule=schedule_of(base), optimizer=optimizer)
