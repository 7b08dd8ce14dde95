# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The steps of a run, put together from its config and a model: what ``trainer/`` runs and ``planning/`` measures.

    config, model -> adapter -> groups -> phases -> for each set of trained groups one step, mapped over the devices

Of the model only modules and shapes are used. Phases that train the same groups share their step. What is put together
knows no config.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from dreambooth_jax import rng
from dreambooth_jax.adapters import TEACHER, Adapter, make_adapter, part_for, with_teacher
from dreambooth_jax.config import Config
from dreambooth_jax.config.concepts import concepts_of, has_prior
from dreambooth_jax.data.batches import Batches, ConceptTables
from dreambooth_jax.data.examples import ExampleTable
from dreambooth_jax.models.condition import id_leaves
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.pipeline.generate import apply
from dreambooth_jax.prepare.cache import buckets_of
from dreambooth_jax.prepare.model import trained_pipe
from dreambooth_jax.prepare.objective import objective_of
from dreambooth_jax.size import Size
from dreambooth_jax.target import Target
from dreambooth_jax.train_groups import GroupTraining, group_training
from dreambooth_jax.training.loop import Phase, split_phases
from dreambooth_jax.training.objective import DenoisingObjective
from dreambooth_jax.training.optimizer_kinds import KINDS, averaged_weights
from dreambooth_jax.training.parallel import MappedStep, Mapper, check_divisible, make_mapper
from dreambooth_jax.training.rules import Rule, check_used
from dreambooth_jax.training.state import TrainState, init_state
from dreambooth_jax.training.step import TrainStep
from dreambooth_jax.trees import Tree, flatten, map_named, shapes

Groups = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainSetup:
    """A run without its data and weights.

    Attributes:
        pipe: the model as the adapter extends it; its parameters are the shapes of what the adapter composes.
        mapper: spreads steps over devices.
        adapter: says what is trained, and keeps the teacher where there is one.
        groups: of what is trained, each with its stretch, learning rate and optimizer.
        phases: of the run.
        batches: what a step learns from.
        concepts: names of its subjects, where there are several.
        size: of the pictures, apart from those in other buckets.
        buckets: all sizes that the subjects' pictures may have.
        masked: do photos have weights at each position?
        keeps_ema: is there a moving average?
        keeps_average: does the optimizer average?
        objective: what steps minimise.
        pure_steps: for each set of groups that a phase trains, its step on logical arrays.
        steps: the same, mapped.
        frozen: shapes of what is never trained, as it is kept during the run.
        trainable: shapes of what is, at some time.
    """

    pipe: Pipeline
    mapper: Mapper
    adapter: Adapter
    groups: Mapping[str, GroupTraining]
    phases: Sequence[Phase]
    batches: Batches
    concepts: Sequence[str]
    size: Size
    buckets: Sequence[Size]
    masked: bool
    keeps_ema: bool
    keeps_average: bool
    objective: DenoisingObjective
    pure_steps: Mapping[Groups, TrainStep]
    steps: Mapping[Groups, MappedStep]
    frozen: Tree
    trainable: Tree

    @cached_property
    def learning_rates(self) -> dict[str, np.ndarray]:
        """Learning rate of each group at each step; all at once, so that no step is waited for to log one."""
        return {
            name: np.pad(np.asarray(jax.jit(jax.vmap(g.schedule))(np.arange(g.stop - g.start))), (g.start, 0))
            for name, g in self.groups.items()
        }

    def fresh_state(self, trainable: Tree) -> TrainState:
        """The logical state before the first step; it takes over what it is given."""
        optimizers = {name: group.optimizer for name, group in self.groups.items()}
        return init_state(trainable, optimizers, with_ema=self.keeps_ema)

    @property
    def state(self) -> TrainState:
        """Shapes of the logical state."""
        return jax.eval_shape(self.fresh_state, self.trainable)

    def averaged(self, state: TrainState) -> Tree:
        """The weights that are drawn with, where they are not those that are trained; else empty."""
        if state.ema or not self.keeps_average:
            return state.ema
        return {group: averaged_weights(state.opt_state[group], tree) for group, tree in state.trainable.items()}

    @property
    def last_step(self) -> int:
        """Of the run."""
        return self.phases[-1].stop

    @property
    def encoders(self) -> Groups:
        """Networks that read prompts."""
        return _encoders(self.pipe)

    def at_rest(self, frozen: Tree) -> Tree:
        """What is never trained, in the dtypes that it is kept in during the run."""
        return jax.tree.map(
            lambda leaf, like: leaf if leaf.dtype == like.dtype else leaf.astype(like.dtype), frozen, self.frozen
        )

    def trains_text_encoder(self, active: Groups) -> bool:
        """Does one of these groups change one?"""
        return not set(self.encoders).isdisjoint(networks_in_step(self.adapter, active, encoders=self.encoders))

    @property
    def drawn_with(self) -> tuple[Tree, Tree]:
        """Shapes of what is frozen and trained that a model is composed of: without the teacher."""
        return part_for(self.adapter, self.pipe.params, self.frozen, self.trainable)

    def frozen_in_step(self, active: Groups, frozen: Tree) -> Tree:
        """Of the frozen parameters, those that a step needs."""
        networks = networks_in_step(self.adapter, active, encoders=self.encoders, teaches=TEACHER in self.frozen)
        return part_for(self.adapter, networks, frozen, {})[0]

    def idle(self, active: Groups) -> Tree:
        """Shapes on each device of the frozen parameters that a step does not take."""
        needed = self.frozen_in_step(active, self.frozen)
        return self.mapper.shapes({name: tree for name, tree in self.frozen.items() if name not in needed})

    def batch(self, active: Groups, size: Size | None = None) -> Any:
        """Shapes of a global batch: those of ``batch_at``, of pictures that take no memory.

        Args:
            active: groups that the step trains.
            size: of the instances' pictures; class images have that of the run.
        """
        instance, prior = self._table(active, size or self.size), self._table(active, self.size)
        one = ConceptTables(name="", instance=[instance], prior=prior, prior_weight=1.0)
        if TEACHER in self.frozen:
            one = replace(one, prior=None, lessons=[instance])
        concepts = [replace(one, name=name) for name in self.concepts] or [one]
        return shapes(self.batches.of(concepts).batch_at(0))

    def _table(self, active: Groups, size: Size) -> ExampleTable:
        pipe, params = self.pipe, shapes(self.pipe.params)
        images = jax.ShapeDtypeStruct((1, *size, pipe.vae.config.in_channels), np.float32)
        moments = jax.eval_shape(partial(apply, pipe.vae, "encode"), params["vae"], images)
        ids = pipe.input_ids([""])
        encoded = jax.eval_shape(pipe.conditioner.__call__, params, ids).leaves()
        mean, logvar = (_blank(one, axes=1) for one in moments)
        states = {name: _blank(one) for name, one in encoded.items()}
        text = id_leaves(ids) if self.trains_text_encoder(active) else states
        if TEACHER in self.frozen:
            text = text | {f"{TEACHER}/{name}": rows for name, rows in states.items()}
        weights = np.broadcast_to(np.float32(1), mean.shape[:4]) if self.masked else None
        return ExampleTable(mean=mean, logvar=logvar, weights=weights, text=text, text_index=np.zeros(1, np.int64))

    def step_shapes(self, active: Groups, size: Size | None = None) -> tuple[Any, ...]:
        """Logical shapes of all that a step takes: state, frozen networks, batch, root key."""
        key = jax.eval_shape(lambda: rng.root_key(0))
        return self.state, self.frozen_in_step(active, self.frozen), self.batch(active, size), key

    def lower(self, active: Groups, size: Size | None = None) -> jax.stages.Lowered:
        """A mapped step for instances of a size, ready to be compiled. When the run takes the step, it finds it
        compiled."""
        state, frozen, batch, key = self.step_shapes(active, size)
        mapper = self.mapper
        return self.steps[active].lower(mapper.shapes(state), mapper.shapes(frozen), mapper.batch_shapes(batch), key)


def _blank(shape: jax.ShapeDtypeStruct, *, axes: int = 0) -> np.ndarray:
    """One number seen as an array of this shape, with more axes after the first; float32, as caches are."""
    return np.broadcast_to(np.float32(0), (*shape.shape[:1], *[1] * axes, *shape.shape[1:]))


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


def build_train_setup(config: Config, pipe: Pipeline, mapper: Mapper) -> TrainSetup:
    """Make all steps of a run; nothing is computed or compiled."""
    adapter, train = make_adapter(config, pipe.tokenizers), config.train
    plain = shapes(pipe.params)
    frozen, trainable = jax.eval_shape(adapter.init, rng.root_key(train.seed), plain)
    dtype = frozen_dtype(train.frozen_dtype, adapter, computing=pipe.unet.dtype)
    frozen = narrowed(frozen, set(flatten(pipe.params)), dtype)
    pipe = adapter.extend(replace(pipe, params=jax.eval_shape(adapter.compose, frozen, trainable)))
    pipe = trained_pipe(pipe, config.objective)
    encoders, batches = _encoders(pipe), batches_of(config)
    teaches, halves = batches.with_prior and config.prior.kind == "teacher", None
    if teaches:
        adapter = with_teacher(adapter, dtype=pipe.unet.dtype)
        frozen[TEACHER] = jax.eval_shape(adapter.init, rng.root_key(train.seed), plain)[0][TEACHER]
        halves = batches.shared_out(devices=len(mapper.devices), accumulation=train.accumulation)
    names = tuple(concept.name for concept in concepts_of(config) if concept.name)
    rules = [Rule.parse(text) for text in config.optimizer.rules]
    check_used(rules, trainable)
    groups = {
        name: group_training(config, name, tree, networks=adapter.networks(name), encoders=encoders, rules=rules)
        for name, tree in trainable.items()
    }
    phases = split_phases(steps=train.steps, stretches={name: (one.start, one.stop) for name, one in groups.items()})
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


def frozen_dtype(said: str, adapter: Adapter, *, computing: DTypeLike) -> DTypeLike:
    """The dtype of kernels at rest.

    Args:
        said: by the settings. "auto" is the computing dtype if the adapter stands beside the layers, which then round
            kernels to it anyway; where kernels are composed, it is float32, so that no small change is lost.
        adapter: of the run.
        computing: dtype that networks compute in.
    """
    if said != "auto":
        return said
    return computing if adapter.beside else np.float32


def narrowed(frozen: Tree, networks: Collection[str], dtype: DTypeLike) -> Tree:
    """Shapes with all kernels and embeddings of networks in ``dtype``, where that is narrower than their own. Biases
    and scales stay: norms use them in float32 whatever the networks compute in.

    Args:
        frozen: shapes.
        networks: names of leaves that are a network's own, and no adapter's.
        dtype: of the result.
    """

    def narrow(name: str, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        is_large = name in networks and name.rpartition("/")[2] in ("kernel", "embedding")
        if is_large and jnp.dtype(dtype).itemsize < leaf.dtype.itemsize:
            return jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype))
        return leaf

    return map_named(narrow, frozen)


def _encoders(pipe: Pipeline) -> Groups:
    return tuple(pipe.components.family.text_encoders)


def networks_in_step(adapter: Adapter, active: Groups, *, encoders: Sequence[str], teaches: bool = False) -> Groups:
    """Networks that a step runs which trains some groups. The work of the others is in the batch: of the autoencoder,
    and of the text encoders unless one of them is trained. A teacher is one more."""
    changed = {network for group in active for network in adapter.networks(group)}
    run = ("unet",) if changed.isdisjoint(encoders) else (*encoders, "unet")
    return (*run, TEACHER) if teaches else run
