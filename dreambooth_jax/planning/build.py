# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Compile all that a run compiles, without weights or photos, and add up what it needs.

    training = networks at rest + peak of the compiled step
    drawing  = state at rest + peak of the compiled sampler

Nothing is allocated, and the devices need not be there.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import jax
import numpy as np

from dreambooth_jax import rng
from dreambooth_jax.adapters import part_for, passed_on
from dreambooth_jax.checks import check_config
from dreambooth_jax.config import Config, SamplingConfig
from dreambooth_jax.config.concepts import concepts_of
from dreambooth_jax.flops import flops
from dreambooth_jax.hardware import Chip
from dreambooth_jax.memory import Usage, bytes_per_device
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.planning.admit import capacity, state_bytes
from dreambooth_jax.planning.advice import advice
from dreambooth_jax.planning.measure import Compiler, work_of
from dreambooth_jax.planning.result import DrawPlan, Plan, StepPlan
from dreambooth_jax.prepare.batch_size import class_batch, encoded_at_once
from dreambooth_jax.prepare.model import check_fit, describe_model
from dreambooth_jax.size import Size
from dreambooth_jax.target import Target
from dreambooth_jax.train_setup import Groups, TrainSetup, build_train_setup, mapper_of
from dreambooth_jax.training.parallel import Mapper, Replicated
from dreambooth_jax.training.parallel.drawing import for_drawing
from dreambooth_jax.training.parallel.sharding import lower_rows
from dreambooth_jax.training.validation import loss_of_rows, rows_at_once, validation_batches
from dreambooth_jax.trees import Tree, count, nbytes, shapes, short


def build(config: Config, target: Target, *, compiler: Compiler, chip: Chip | None = None) -> Plan:
    """The plan of a run.

    Args:
        config: of the run.
        target: devices to compile for.
        compiler: compiles and measures one program.
        chip: the data sheet of the devices, where programs are to be read and bounds to be given.

    Raises:
        InputError: for wrong settings, or a model whose configuration cannot be had.
    """
    check_config(config)
    mapper = mapper_of(config, target)
    pipe = describe_model(config, target)
    check_fit(pipe, config)
    setup = build_train_setup(config, pipe, mapper)
    programs = list(product(setup.steps, setup.buckets))
    steps = [step_plan(setup, active, size, compiler=compiler, chip=chip) for active, size in programs]
    trained, at_rest = (
        " and ".join(f"{short(count(part))} {name}" for name, part in tree.items())
        for tree in (setup.trainable, setup.frozen)
    )
    batch = max(bytes_per_device(mapper.batch_shapes(setup.batch(*program))) for program in programs)
    return Plan(
        model=f"training {trained}; {at_rest} rest; {setup.batches.examples} examples a step",
        machine=_machine(mapper, np.dtype(pipe.unet.dtype).name),
        state=state_bytes(setup, optimizer=config.optimizer.kind) | {"batch": batch},
        steps=steps,
        draws=list(draw_plans(config, setup, pipe, compiler=compiler)),
        capacity=capacity(config, mapper),
        advice=list(advice(config, setup, activations=max(step.usage.temporaries for step in steps))),
    )


def _machine(mapper: Mapper, dtype: str) -> str:
    devices = mapper.devices
    way = type(mapper).__name__.lower() if len(devices) > 1 else "alone"
    line = f"compiled for {len(devices)} x {devices[0].device_kind}, {way}, computing in {dtype}"
    if devices[0].platform != "cpu":
        return line
    # jaxlib 0.10 merges on CPUs what it should compute again
    return f"{line}: activations are a CPU's; --target names a GPU or TPU to compile for instead"


def step_plan(
    setup: TrainSetup, active: Groups, size: Size, *, compiler: Compiler, chip: Chip | None = None
) -> StepPlan:
    """Compile a step for instances of a size, and ask what it needs."""
    state, frozen, batch, key = setup.step_shapes(active, size)
    phases = [(phase.start, phase.stop) for phase in setup.phases if phase.active == active]
    stretches = ", ".join(f"{start} to {stop}" for start, stop in phases)
    bucket = size.words if len(setup.buckets) > 1 else ""
    name = f"steps {stretches}" + (f" on {bucket}" if bucket else "")
    measured = compiler(name, lambda: setup.lower(active, size))
    operations = flops(setup.pure_steps[active], state, frozen, batch, key)
    dtype = np.dtype(setup.pipe.unet.dtype).name
    return StepPlan(
        active=active,
        phases=phases,
        bucket=bucket,
        usage=measured.usage,
        idle=bytes_per_device(setup.idle(active)),
        flops=operations,
        work=work_of(measured, chip, target=setup.mapper.target, flops=operations, dtype=dtype),
    )


def draw_plans(config: Config, setup: TrainSetup, pipe: Pipeline, *, compiler: Compiler) -> Iterator[DrawPlan]:
    """Class images and latents before the first step, by the pretrained ``pipe``; sample grids between steps."""
    target = setup.mapper.target
    pipe, later = (_as_drawn_with(one, setup.mapper) for one in (pipe, setup.pipe))
    size, n, everyone = config.data.size, len(target.local), len(target.devices)
    done: dict[tuple[Any, ...], Usage] = {}

    def sampler(pipe: Pipeline, sampling: SamplingConfig, pictures: int) -> Usage:
        # of the settings, what a program is compiled for; the others are its arguments
        key = (bytes_per_device(pipe.params), pictures, sampling.height, sampling.width, sampling.guidance_scale > 1)
        if key not in done:
            lower = partial(pipe.lower, pictures * n, sampling=sampling)
            done[key] = compiler(f"sampler, {pictures} pictures at once", lower).usage
        return done[key]

    def draw(purpose: str, pictures: int, usage: Usage, at_rest: int) -> DrawPlan:
        return DrawPlan(purpose=purpose, pictures=pictures, usage=usage, idle=at_rest, flops=0)

    wanted = [concept.num_images for concept in concepts_of(config) if concept.weight and concept.num_images]
    if wanted and config.prior.kind == "pictures":
        room = capacity(config, setup.mapper)
        missing = -(-max(wanted) * n // everyone)
        usage_at = partial(sampler, pipe, config.prior.sampling(size=size))
        pictures = class_batch(pipe, prior=config.prior, size=size, room=room, missing=missing, usage_at=usage_at)
        yield draw("class images", pictures, usage_at(pictures), 0)
    encoded = encoded_at_once(target)
    beside = bytes_per_device({name: tree for name, tree in pipe.params.items() if name != "vae"})
    lower = partial(pipe.lower_encode_images, encoded, **size._asdict())
    yield draw("latents", encoded // n, compiler("encoder", lower).usage, beside)
    if config.samples.every:
        pictures = -(-config.samples.num_images // n)
        usage = sampler(later, config.samples.sampling(size=size), pictures)
        yield draw("sample grids", pictures, usage, beside_a_model(setup, *setup.pipe.params))
    if config.validation.is_wanted:
        rows = rows_at_once(setup.batches.examples, everyone)
        usage = compiler("validation", partial(lower_validation, setup, later.params, rows)).usage
        yield draw("validation", rows, usage, beside_a_model(setup, "unet", *setup.encoders))


def _as_drawn_with(pipe: Pipeline, mapper: Mapper) -> Pipeline:
    """Its parameters as they lie while pictures are drawn."""
    return replace(pipe, params=for_drawing(mapper.shapes(pipe.params), mapper.target))


def beside_a_model(setup: TrainSetup, *networks: str) -> int:
    """Bytes on each device of what lies there between steps while the model is looked at, but for what it shares."""
    mapper = setup.mapper
    held = bytes_per_device(mapper.shapes((setup.state, setup.frozen_on_devices)))
    if setup.keeps_average and not setup.keeps_ema:  # what the optimizer averages is made for this
        held += bytes_per_device(mapper.shapes(setup.trainable))
    # Where all is whole on each device, a model shares with it what it is composed of; else it is a copy.
    is_whole = len(mapper.devices) == 1 or isinstance(mapper, Replicated)
    parts = part_for(setup.adapter, networks, setup.frozen_on_devices, setup.trainable)
    return held - (nbytes(passed_on(setup.adapter, *parts)) if is_whole else 0)


def lower_validation(setup: TrainSetup, drawn: Tree, rows: int) -> jax.stages.Lowered:
    """The program of a validation, of so many examples at once on each device, by parameters as they lie then."""
    mesh = setup.mapper.target.mesh
    everywhere = rows * mesh.size
    (batch, *_) = validation_batches([setup.held_out(setup.size)], np.zeros(everywhere, np.int64), rows=everywhere)
    params = {name: drawn[name] for name in ("unet", *setup.encoders)}
    key = jax.eval_shape(lambda: rng.root_key(0))
    return lower_rows(mesh, loss_of_rows(setup.objective, everywhere), (), params, shapes(batch), key)
