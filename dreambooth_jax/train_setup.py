# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The steps of a run, put together from its config and a model: what ``trainer/`` runs and ``planning.py`` measures.

    config, model -> adapter, phases -> optimizers -> for each set of trained groups one step, mapped over the devices

Of the model only modules and shapes are used. Phases that train the same groups share their step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
import optax

from dreambooth_jax import rng
from dreambooth_jax.adapters import Adapter, make_adapter, part_for
from dreambooth_jax.config import Config, OptimizerConfig
from dreambooth_jax.data.examples import ExampleTable
from dreambooth_jax.data.mixture import Mixture, Stream
from dreambooth_jax.models.condition import id_leaves
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.pipeline.generate import apply
from dreambooth_jax.target import Target
from dreambooth_jax.training.loop import Phase, split_phases
from dreambooth_jax.training.objective import DenoisingObjective
from dreambooth_jax.training.optimizer import Schedule, adafactor, adamw, learning_rate_schedule, lion
from dreambooth_jax.training.parallel import MappedStep, Mapper, check_divisible, make_mapper
from dreambooth_jax.training.state import TrainState, init_state
from dreambooth_jax.training.step import TrainStep
from dreambooth_jax.trees import Tree, shapes

Groups = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainSetup:
    """A run without its data and weights.

    Attributes:
        config: of the run.
        pipe: the model as the adapter extends it; its parameters are the shapes of what the adapter composes.
        mapper: spreads steps over devices.
        adapter: says what is trained.
        phases: of the run.
        optimizers: of each group.
        schedules: of each group, its learning rate over the steps from the first to the last that trains it.
        pure_steps: for each set of groups that a phase trains, its step on logical arrays.
        steps: the same, mapped.
        frozen: shapes of what is never trained.
        trainable: shapes of what is, at some time.
    """

    config: Config
    pipe: Pipeline
    mapper: Mapper
    adapter: Adapter
    phases: Sequence[Phase]
    optimizers: Mapping[str, optax.GradientTransformation]
    schedules: Mapping[str, tuple[Schedule, int, int]]
    pure_steps: Mapping[Groups, TrainStep]
    steps: Mapping[Groups, MappedStep]
    frozen: Tree
    trainable: Tree

    @cached_property
    def learning_rates(self) -> dict[str, np.ndarray]:
        """Learning rate of each group at each step; all at once, so that no step is waited for to log one."""
        return {
            group: np.pad(np.asarray(jax.jit(jax.vmap(schedule))(np.arange(stop - start))), (start, 0))
            for group, (schedule, start, stop) in self.schedules.items()
        }

    def fresh_state(self, trainable: Tree) -> TrainState:
        """The logical state before the first step; it takes over what it is given."""
        return init_state(trainable, self.optimizers, with_ema=self.config.train.ema_decay > 0)

    @property
    def state(self) -> TrainState:
        """Shapes of the logical state."""
        return jax.eval_shape(self.fresh_state, self.trainable)

    @property
    def encoders(self) -> tuple[str, ...]:
        """Networks that read prompts."""
        return tuple(self.pipe.components.family.text_encoders)

    def trains_text_encoder(self, active: Groups) -> bool:
        """Does one of these groups change one?"""
        return not set(self.encoders).isdisjoint(self.networks_in_step(active))

    def frozen_in_step(self, active: Groups, frozen: Tree) -> Tree:
        """Of the frozen parameters, those that a step needs."""
        return part_for(self.adapter, self.networks_in_step(active), frozen, {})[0]

    def networks_in_step(self, active: Groups) -> tuple[str, ...]:
        """See :func:`networks_in_step`."""
        return networks_in_step(self.adapter, active, encoders=self.encoders)

    @property
    def rows(self) -> int:
        """Examples of each step, instance and class together."""
        return self.config.train.batch_size * copies(self.config)

    def batch(self, active: Groups) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a global batch: those of ``batch_at``, of one picture that takes no memory."""
        pipe, params = self.pipe, shapes(self.pipe.params)
        images = jax.ShapeDtypeStruct((1, *self.config.data.size, pipe.vae.config.in_channels), np.float32)
        moments = jax.eval_shape(partial(apply, pipe.vae, "encode"), params["vae"], images)
        ids = pipe.input_ids([""])
        encoded = jax.eval_shape(pipe.conditioner.__call__, params, ids).leaves()
        mean, logvar = (_blank(one, axes=1) for one in moments)
        text = id_leaves(ids) if self.trains_text_encoder(active) else {n: _blank(one) for n, one in encoded.items()}
        table = ExampleTable(mean=mean, logvar=logvar, text=text, text_index=np.zeros(1, np.int64))
        return shapes(mixture_of(self.config, instance=table, prior=table).batch_at(0))

    def step_shapes(self, active: Groups) -> tuple[Any, ...]:
        """Logical shapes of all that a step takes: state, frozen networks, batch, root key."""
        key = jax.eval_shape(lambda: rng.root_key(self.config.train.seed))
        return self.state, self.frozen_in_step(active, self.frozen), self.batch(active), key

    def lower(self, active: Groups) -> jax.stages.Lowered:
        """A mapped step, ready to be compiled. When the run takes the step, it finds it compiled."""
        state, frozen, batch, key = self.step_shapes(active)
        mapper = self.mapper
        return self.steps[active].lower(mapper.shapes(state), mapper.shapes(frozen), mapper.batch_shapes(batch), key)


def _blank(shape: jax.ShapeDtypeStruct, *, axes: int = 0) -> np.ndarray:
    """One number seen as an array of this shape, with more axes after the first; float32, as caches are."""
    return np.broadcast_to(np.float32(0), (*shape.shape[:1], *[1] * axes, *shape.shape[1:]))


def mixture_of(config: Config, *, instance: ExampleTable, prior: ExampleTable | None) -> Mixture:
    """How a run's pictures come into its batches; the class's with prior preservation alone."""
    rows, weight = config.train.batch_size, config.prior.weight
    streams = [Stream(name="instance", table=instance, rows=rows)]
    if prior is not None and weight:
        streams.append(Stream(name="prior", table=prior, rows=rows, weight=weight, is_prior=True))
    return Mixture(streams=streams, seed=config.train.seed)


def mapper_of(config: Config, target: Target) -> Mapper:
    """The run's mapper over the devices.

    Raises:
        InputError: if the batch cannot be spread evenly over them.
    """
    mapper = make_mapper(config.train.parallel, target, fsdp_devices=config.train.fsdp_devices)
    check_divisible(
        batch_size=config.train.batch_size,
        copies=copies(config),
        accumulation=config.train.accumulation,
        n_devices=len(mapper.devices),
    )
    return mapper


def copies(config: Config) -> int:
    """Examples per instance example: with prior preservation a class example comes with each."""
    return 2 if config.prior.weight else 1


def build_train_setup(config: Config, pipe: Pipeline, mapper: Mapper) -> TrainSetup:
    """Make all steps of a run; nothing is computed or compiled."""
    adapter = make_adapter(config)
    frozen, trainable = jax.eval_shape(adapter.init, rng.root_key(config.train.seed), shapes(pipe.params))
    pipe = adapter.extend(replace(pipe, params=jax.eval_shape(adapter.compose, frozen, trainable)))
    encoders = tuple(pipe.components.family.text_encoders)
    phases = split_phases(
        steps=config.train.steps, stretches={group: stretch_of(group, adapter, config, encoders) for group in trainable}
    )
    own_rates = {group: own_rate_of(group, adapter, config, encoders) for group in trainable}
    optimizers, schedules = optimization(config.optimizer, phases, own_rates)
    objective = DenoisingObjective(
        unet=pipe.unet.clone(remat=config.train.remat),
        conditioner=pipe.conditioner.clone(remat=config.train.remat),
        schedule=pipe.schedule,
        scaling_factor=pipe.vae.config.scaling_factor,
        n_instances=config.train.batch_size,
    )
    pure_steps = {
        active: TrainStep(
            objective=objective,
            adapter=adapter,
            optimizers=optimizers,
            active=active,
            accumulation=config.train.accumulation,
            clip_norm=config.optimizer.clip_norm,
            ema_decay=config.train.ema_decay,
            dtype=pipe.unet.dtype,
            networks=networks_in_step(adapter, active, encoders=encoders),
        )
        for active in dict.fromkeys(phase.active for phase in phases)
    }
    return TrainSetup(
        config=config,
        pipe=pipe,
        mapper=mapper,
        adapter=adapter,
        phases=phases,
        optimizers=optimizers,
        schedules=schedules,
        pure_steps=pure_steps,
        steps={active: mapper.map(step) for active, step in pure_steps.items()},
        frozen=frozen,
        trainable=trainable,
    )


def networks_in_step(adapter: Adapter, active: Groups, *, encoders: Sequence[str]) -> tuple[str, ...]:
    """Networks that a step runs which trains some groups. The work of the others is in the batch: of the autoencoder,
    and of the text encoders unless one of them is trained."""
    changed = {network for group in active for network in adapter.networks(group)}
    return ("unet",) if changed.isdisjoint(encoders) else (*encoders, "unet")


def _only_reads_prompts(group: str, adapter: Adapter, encoders: Sequence[str]) -> bool:
    """Is it a group of the text encoders' own, which settings tell of?"""
    return set(adapter.networks(group)) <= set(encoders)


def stretch_of(group: str, adapter: Adapter, config: Config, encoders: Sequence[str]) -> tuple[int, int]:
    """First step that trains a group and first that no longer does."""
    own = _only_reads_prompts(group, adapter, encoders)
    return (config.text_encoder.start, config.text_encoder.stop) if own else (0, -1)


def own_rate_of(group: str, adapter: Adapter, config: Config, encoders: Sequence[str]) -> float | None:
    """Learning rate of a group's own; None where it has that of all."""
    return config.text_encoder.learning_rate if _only_reads_prompts(group, adapter, encoders) else None


def optimization(
    settings: OptimizerConfig, phases: Sequence[Phase], own_rates: Mapping[str, float | None]
) -> tuple[dict[str, optax.GradientTransformation], dict[str, tuple[Schedule, int, int]]]:
    """Per group: its optimizer, and its schedule with the first step that trains it and the step after the last.

    A schedule runs over the stretch in which the group is trained, warm-up included, and counts that group's steps.

    Args:
        settings: for all groups.
        phases: of the run.
        own_rates: of each group, its peak learning rate, or None for that of the settings.
    """
    optimizers, schedules = {}, {}
    for group, own_rate in own_rates.items():
        active = [phase for phase in phases if group in phase.active]
        start, stop = active[0].start, active[-1].stop
        schedule = learning_rate_schedule(
            settings.schedule,
            peak=settings.learning_rate if own_rate is None else own_rate,
            steps=stop - start,
            warmup_steps=settings.warmup_steps,
            power=settings.power,
        )
        optimizers[group] = optimizer_of(settings, schedule, group)
        schedules[group] = (schedule, start, stop)
    return optimizers, schedules


def optimizer_of(settings: OptimizerConfig, schedule: Schedule, group: str) -> optax.GradientTransformation:
    """The optimizer of one group."""
    decay: dict[str, Any] = {"weight_decay": settings.weight_decay, "no_decay": settings.no_decay}
    if settings.kind == "adafactor":
        return adafactor(schedule, group=group, **decay)
    moments: dict[str, Any] = {"beta1": settings.beta1, "moments": settings.moments}
    if settings.beta2 is not None:
        moments["beta2"] = settings.beta2
    if settings.kind == "lion":
        return lion(schedule, group=group, **moments, **decay)
    return adamw(schedule, group=group, eps=settings.eps, **moments, **decay)
