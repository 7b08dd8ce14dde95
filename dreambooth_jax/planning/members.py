# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Compile the steps of a group of members, without weights or photos, and say how many members fit."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dreambooth_jax.checks import check_config
from dreambooth_jax.config import Config
from dreambooth_jax.errors import InputError
from dreambooth_jax.flops import flops
from dreambooth_jax.hardware import Chip
from dreambooth_jax.memory import bytes_per_device
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.planning.admit import capacity
from dreambooth_jax.planning.measure import Compiler, work_of
from dreambooth_jax.planning.members_result import GroupStep, MembersPlan
from dreambooth_jax.prepare.model import check_fit, describe_model
from dreambooth_jax.target import Target
from dreambooth_jax.train_setup import Groups, build_train_setup
from dreambooth_jax.train_setup.members import build_member_setup, spread_members
from dreambooth_jax.training.members import as_rows
from dreambooth_jax.training.parallel import Mapper, make_mapper
from dreambooth_jax.trees import count, nbytes, short


def build_members(
    config: Config, target: Target, members: int, *, compiler: Compiler, chip: Chip | None = None
) -> MembersPlan:
    """The plan of a group.

    Args:
        config: of each member.
        target: devices to compile for.
        members: how many are to be trained.
        compiler: compiles and measures one program.
        chip: the data sheet of the devices, where bounds are to be given.

    Raises:
        InputError: for wrong settings, a method that trains one subject at a time, or a model that cannot be had.
    """
    check_config(config)
    pipe = describe_model(config, target)
    check_fit(pipe, config)
    mapper = make_mapper(config.train.parallel, target, fsdp_devices=config.train.fsdp_devices)
    setup = build_train_setup(config, pipe, mapper)
    if len(setup.buckets) > 1:
        raise InputError(f"data.buckets={config.data.buckets}: rows of several sizes are trained alone; see plan")
    devices, room = len(mapper.devices), capacity(config, mapper)
    steps = [step for number in (1, 2) for step in group_steps(config, pipe, mapper, number * devices, compiler, chip)]
    trained = " and ".join(f"{short(count(tree))} {name}" for name, tree in setup.trainable.items())
    dtype = np.dtype(pipe.unet.dtype).name
    found = MembersPlan(
        model=f"each member trains {trained}; {setup.batches.examples} examples a step",
        machine=f"compiled for {devices} x {mapper.devices[0].device_kind}, computing in {dtype}",
        wanted=members,
        devices=devices,
        steps=steps,
        state=nbytes(setup.state),
        capacity=room,
    )
    if found.at_once in (0, devices, 2 * devices):
        return found
    more = list(group_steps(config, pipe, mapper, found.at_once, compiler, chip))
    return replace(found, steps=[*steps, *more])


def group_steps(
    config: Config, pipe: Pipeline, mapper: Mapper, members: int, compiler: Compiler, chip: Chip | None
) -> Iterator[GroupStep]:
    """Compile the steps of so many members."""
    target = mapper.target
    spread = spread_members(config, target, members=members)
    setup = build_train_setup(config, pipe, mapper, sharers=spread.sharers)
    together = build_member_setup([config] * members, [setup] * members)
    trainable = jax.tree.map(lambda s: jax.ShapeDtypeStruct((members, *s.shape), s.dtype), setup.trainable)
    state = jax.eval_shape(together.fresh_state, trainable)
    inputs = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, together.inputs))

    def lower(active: Groups) -> jax.stages.Lowered:
        frozen, own = setup.frozen_in_step(active, setup.frozen), setup.batch(active)
        placed = spread.member_shapes(state), spread.shapes(frozen), spread.batch_shapes(own)
        return spread.map(together.pure_steps[active]).lower(*placed, inputs)

    for active, step in together.pure_steps.items():
        frozen, own = setup.frozen_in_step(active, setup.frozen), setup.batch(active)
        every = jax.tree.map(lambda s: jax.ShapeDtypeStruct((members, *s.shape), s.dtype), own)
        idle = {name: tree for name, tree in setup.frozen_on_devices.items() if name not in frozen}
        measured = compiler(f"a step of {members} members, {' and '.join(active)}", partial(lower, active))
        operations = flops(step, state, frozen, jax.eval_shape(as_rows, every), inputs)
        yield GroupStep(
            members=members,
            active=active,
            usage=measured.usage,
            idle=bytes_per_device(spread.shapes(idle)),
            flops=operations,
            work=work_of(measured, chip, target=target, flops=operations, dtype=np.dtype(setup.pipe.unet.dtype).name),
        )
