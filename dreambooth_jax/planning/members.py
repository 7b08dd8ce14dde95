# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Compile the steps of a group of members, without weights or photos, and say how many members fit."""

from collections.abc import Iterator, Mapping, Sequence
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
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.planning.admit import capacity
from dreambooth_jax.planning.measure import Compiler, compile_only, work_of
from dreambooth_jax.planning.members_result import GroupStep, MembersPlan
from dreambooth_jax.prepare.model import check_fit, describe_model
from dreambooth_jax.target import Target
from dreambooth_jax.train_setup import Groups, TrainSetup, build_train_setup
from dreambooth_jax.train_setup.members import (
    MemberSetup,
    build_member_setup,
    idle_bytes,
    spread_members,
    step_shapes,
)
from dreambooth_jax.training.members import as_rows
from dreambooth_jax.training.parallel import MappedStep, Mapper, MemberMapper, make_mapper
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
    inputs = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, together.inputs))
    for active, step in together.pure_steps.items():
        state, frozen, rows = step_shapes(together, setup, spread, active)
        lower = partial(spread.map(step).lower, state, frozen, rows, inputs)
        measured = compiler(f"a step of {members} members, {' and '.join(active)}", lower)
        every = jax.tree.map(lambda s: jax.ShapeDtypeStruct((members, *s.shape[1:]), s.dtype), (state, rows))
        shapes = setup.frozen_in_step(active, setup.frozen)
        operations = flops(step, every[0], shapes, jax.eval_shape(as_rows, every[1]), inputs)
        yield GroupStep(
            members=members,
            active=active,
            usage=measured.usage,
            idle=idle_bytes(setup, spread, active),
            flops=operations,
            work=work_of(measured, chip, target=target, flops=operations, dtype=np.dtype(setup.pipe.unet.dtype).name),
        )


def peak_of(configs: Sequence[Config], pipe: Pipeline, mapper: Mapper) -> int:
    """Bytes on each device of the step of these members that needs most.

    Args:
        configs: of members of one program.
        pipe: the model, or shapes of it.
        mapper: of the devices.
    """
    spread = spread_members(configs[0], mapper.target, members=len(configs))
    setup = build_train_setup(configs[0], pipe, mapper, sharers=spread.sharers)
    together = build_member_setup(configs, [setup] * len(configs))
    return max(step.peak for step in compiled_steps(together, setup, spread))


def compiled_steps(
    together: MemberSetup, setup: TrainSetup, spread: MemberMapper, mapped: Mapping[Groups, MappedStep] | None = None
) -> Iterator[GroupStep]:
    """Compile the steps of members.

    Args:
        together: the steps.
        setup: of one member.
        spread: members over devices.
        mapped: steps that are there already, and then run as compiled here.
    """
    count, inputs = len(together.inputs.steps), together.inputs
    for active, step in together.pure_steps.items():
        one = mapped[active] if mapped else spread.map(step)
        lower = partial(one.lower, *step_shapes(together, setup, spread, active), inputs)
        usage = compile_only(f"a step of {count} members, {' and '.join(active)}", lower).usage
        idle = idle_bytes(setup, spread, active)
        yield GroupStep(members=count, active=active, usage=usage, idle=idle, flops=0)
