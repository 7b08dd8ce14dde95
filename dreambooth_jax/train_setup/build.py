# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""All steps of a run from its config and a model; nothing is computed or compiled."""

from dataclasses import replace

import jax

from dreambooth_jax import rng
from dreambooth_jax.adapters import TEACHER, make_adapter, with_teacher
from dreambooth_jax.config import Config
from dreambooth_jax.config.concepts import concepts_of, has_prior
from dreambooth_jax.data.batches import Batches
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.prepare.cache import buckets_of
from dreambooth_jax.prepare.model import trained_pipe
from dreambooth_jax.prepare.objective import objective_of
from dreambooth_jax.target import Target
from dreambooth_jax.train_setup.frozen import frozen_dtype, narrowed
from dreambooth_jax.train_setup.groups import group_training
from dreambooth_jax.train_setup.networks import encoders_of, networks_in_step
from dreambooth_jax.train_setup.setup import TrainSetup
from dreambooth_jax.training.loop import split_phases
from dreambooth_jax.training.optimizer_kinds import KINDS
from dreambooth_jax.training.parallel import Mapper, check_divisible, make_mapper
from dreambooth_jax.training.rules import Rule, check_used
from dreambooth_jax.training.step import TrainStep
from dreambooth_jax.trees import flatten, shapes


def batches_of(config: Config) -> Batches:
    """What a run's steps learn from."""
    return Batches(rows=config.train.batch_size, with_prior=has_prior(config), seed=config.train.seed)


def mapper_of(config: Config, target: Target) -> Mapper:
    """The run's mapper over the devices.

    Raises:
        InputError: if the batch cannot be spread evenly over them.
    """
    train, batches = config.train, batches_of(config)
    mapper = make_mapper(train.parallel, target, fsdp_devices=train.fsdp_devices)
    check_divisible(
        batch_size=batches.rows,
        copies=batches.copies if config.data.buckets == 1 else 1,  # instances and class images are apart
        accumulation=train.accumulation,
        n_devices=len(mapper.devices),
    )
    return mapper


def build_train_setup(config: Config, pipe: Pipeline, mapper: Mapper, *, sharers: int | None = None) -> TrainSetup:
    """Make all steps of a run; nothing is computed or compiled. ``sharers`` devices, by default all, share its rows."""
    adapter, train = make_adapter(config, pipe.tokenizers, pipe.conditioner.unread), config.train
    plain = shapes(pipe.params)
    frozen, trainable = jax.eval_shape(adapter.init, rng.root_key(train.seed), plain)
    dtype = frozen_dtype(train.frozen_dtype, adapter, computing=pipe.unet.dtype)
    frozen = narrowed(frozen, set(flatten(pipe.params)), dtype)
    pipe = adapter.extend(replace(pipe, params=jax.eval_shape(adapter.compose, frozen, trainable)))
    pipe = trained_pipe(pipe, config.objective)
    encoders, batches = encoders_of(pipe), batches_of(config)
    teaches, halves = batches.with_prior and config.prior.kind == "teacher", None
    if teaches:
        adapter = with_teacher(adapter, dtype=pipe.unet.dtype)
        frozen[TEACHER] = jax.eval_shape(adapter.init, rng.root_key(train.seed), plain)[0][TEACHER]
        halves = batches.shared_out(devices=sharers or len(mapper.devices), accumulation=train.accumulation)
    names = tuple(concept.name for concept in concepts_of(config) if concept.name)
    rules = [Rule.parse(text) for text in config.optimizer.rules]
    check_used(rules, trainable)
    groups = {
        name: group_training(config, name, tree, networks=adapter.networks(name), encoders=encoders, rules=rules)
        for name, tree in trainable.items()
    }
    phases = split_phases(steps=train.steps, stretches={name: [(one.start, one.stop)] for name, one in groups.items()})
    objective = objective_of(config, pipe, n_instances=batches.rows, concepts=names, halves=halves is not None)
    pure_steps = {
        active: TrainStep(
            objective=objective,
            adapter=adapter,
            optimizers={name: group.optimizer for name, group in groups.items()},
            active=active,
            accumulation=train.accumulation,
            clip_norm=config.optimizer.clip_norm,
            ema_decay=train.ema_decay,
            dtype=pipe.unet.dtype,
            networks=networks_in_step(adapter, active, encoders=encoders, teaches=teaches),
        )
        for active in dict.fromkeys(phase.active for phase in phases)
    }
    return TrainSetup(
        pipe=pipe,
        mapper=mapper,
        adapter=adapter,
        groups=groups,
        phases=phases,
        batches=halves or batches,
        concepts=names,
        size=config.data.size,
        buckets=buckets_of(config.data),
        masked=config.data.masks != "none",
        keeps_ema=train.ema_decay > 0,
        keeps_average=KINDS[config.optimizer.kind].averages,
        objective=objective,
        pure_steps=pure_steps,
        steps={active: mapper.map(step) for active, step in pure_steps.items()},
        frozen=frozen,
        trainable=trainable,
    )
