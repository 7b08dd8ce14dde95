# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How each group of what is trained is trained: its stretch of the run, learning rate and optimizer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optax

from dreambooth_jax.adapters.dora import LENGTHS
from dreambooth_jax.adapters.textual_inversion import TOKENS
from dreambooth_jax.config import Config, OptimizerConfig, TextEncoderConfig, TokensConfig
from dreambooth_jax.training.optimizer import Schedule, learning_rate_schedule
from dreambooth_jax.training.optimizer_kinds import make_optimizer
from dreambooth_jax.training.rules import Rule, Treatment, by_treatment, rates_told
from dreambooth_jax.trees import Tree


@dataclass(frozen=True, kw_only=True)
class GroupTraining:
    """How one group is trained, in steps ``start`` up to, but without, ``stop``.

    Its schedules run over this stretch, warm-up included, and count the group's own steps. They have the names that
    :func:`~dreambooth_jax.training.rules.rates_told` gives rates.
    """

    start: int
    stop: int
    schedules: Mapping[str, Schedule]
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
    """How a group is trained: as the settings say that speak of it, if any do, else all the run.

    Args:
        config: of the run.
        name: of the group.
        tree: shapes of what it trains.
        networks: that it changes.
        encoders: networks that read prompts.
        rules: other rates of some leaves.
    """
    start, stop, base = stretch_of(config, name, networks, encoders)

    def optimizer_of(treatment: Treatment) -> optax.GradientTransformation:
        schedule = schedule_of(config.optimizer, treatment, stop - start)
        return optimizer_with(config.optimizer, name, treatment, schedule, stop - start)

    optimizer = by_treatment(name, tree, rules=rules, base=base, make=optimizer_of)
    told = rates_told(name, tree, rules, base)
    schedules = {label: schedule_of(config.optimizer, one, stop - start) for label, one in told.items()}
    return GroupTraining(start=start, stop=stop, schedules=schedules, optimizer=optimizer)


def stretch_of(
    config: Config, name: str, networks: Sequence[str], encoders: Sequence[str]
) -> tuple[int, int, Treatment]:
    """(first step that trains a group, first that no longer does, how its leaves are trained that no rule is about);
    arguments as in :func:`group_training`."""
    settings, own = config.optimizer, settings_of_group(config, name, networks, encoders)
    start, stop = own.stretch(config.train.steps) if own else (0, config.train.steps)
    if name != TOKENS:
        start = min(max(start, config.tokens.alone), stop)
    peak = settings.learning_rate if own is None or own.learning_rate is None else own.learning_rate
    return start, stop, Treatment(peak, settings.weight_decay, settings.schedule, settings.warmup_steps)


def schedule_of(settings: OptimizerConfig, treatment: Treatment, steps: int) -> Schedule:
    """Learning rates of leaves that are trained so, over so many steps."""
    return learning_rate_schedule(
        treatment.schedule,
        peak=treatment.learning_rate,
        steps=steps,
        warmup_steps=treatment.warmup_steps,
        power=settings.power,
        cycles=settings.cycles,
    )


def optimizer_with(
    settings: OptimizerConfig, name: str, treatment: Treatment, schedule: Schedule, steps: int
) -> optax.GradientTransformation:
    """The optimizer of leaves of a group.

    Args:
        settings: of the run.
        name: of the group.
        treatment: of the leaves.
        schedule: their learning rates.
        steps: that the group is trained.
    """
    return make_optimizer(
        settings.kind,
        schedule,
        group=name,
        steps=steps,
        beta1=settings.beta1,
        beta2=settings.beta2,
        eps=settings.eps,
        moments=settings.moments,
        weight_decay=treatment.weight_decay,
        no_decay=(*settings.no_decay, LENGTHS),
    )


def settings_of_group(
    config: Config, name: str, networks: Sequence[str], encoders: Sequence[str]
) -> TokensConfig | TextEncoderConfig | None:
    """Those with a stretch and a rate of its own: of new words; of text encoders, if it changes nothing else."""
    if name == TOKENS:
        return config.tokens
    return config.text_encoder if set(networks) <= set(encoders) else None
