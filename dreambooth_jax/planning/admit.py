# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A run that cannot fit is refused: before it reads weights, and before its first step.

    state    = parameters + moments + moving average + gradients + networks at rest      exact, from shapes alone
    training = networks at rest + peak of the compiled step

Both are compared with what the target has, or ``train.device_memory`` says.
"""

from collections.abc import Sequence
from itertools import product

import jax

from dreambooth_jax.config import Config
from dreambooth_jax.errors import InputError
from dreambooth_jax.memory import bytes_per_device, usage_of
from dreambooth_jax.planning.advice import refusal
from dreambooth_jax.planning.result import GB, gb
from dreambooth_jax.prepare.model import describe_model
from dreambooth_jax.progress import announced
from dreambooth_jax.size import Size
from dreambooth_jax.train_setup import TrainSetup, build_train_setup
from dreambooth_jax.training.parallel import Mapper, Replicated


def capacity(config: Config, mapper: Mapper) -> int | None:
    """Bytes of each device: what the config says, or else the target."""
    said = config.train.device_memory
    return int(said * GB) if said is not None else mapper.target.memory


def state_bytes(setup: TrainSetup, *, optimizer: str) -> dict[str, int]:
    """Bytes on each device of what a run holds between steps, and of the gradients, which no step can do without.

    Args:
        setup: the run's steps.
        optimizer: what moments are called by.
    """
    mapper = setup.mapper
    state = mapper.shapes(setup.state)
    gradients = (
        bytes_per_device(mapper.shapes({group: setup.trainable[group] for group in active})) for active in setup.steps
    )
    sizes = {
        "parameters": bytes_per_device(state.trainable),
        f"moments ({optimizer})": bytes_per_device(state.opt_state),
        "moving average": bytes_per_device(state.ema),
        "gradients": max(gradients),
        "networks at rest": bytes_per_device(mapper.shapes(setup.frozen_on_devices)),
    }
    return {name: size for name, size in sizes.items() if size}


def check_state(config: Config, mapper: Mapper) -> None:
    """Raise InputError if not even what a run holds between steps fits. Nothing is compiled, no weights are read."""
    setup = build_train_setup(config, describe_model(config, mapper.target), mapper)
    sizes, room = state_bytes(setup, optimizer=config.optimizer.kind), capacity(config, mapper)
    needed = sum(sizes.values())
    if room is not None and needed > room:
        parts = " + ".join(f"{name} {gb(size)}" for name, size in sizes.items())
        raise InputError(refusal(config, setup, f"{gb(needed)} GB on each device ({parts})", room, activations=0))


def check_steps(config: Config, setup: TrainSetup, *, first_step: int, sizes: Sequence[Size] = ()) -> None:
    """Compile the steps that are still to be taken, which then run as compiled here.

    Args:
        config: of the run.
        setup: its steps.
        first_step: steps that have been taken before.
        sizes: of the instances' pictures, each of which has a step of its own; by default all that there may be.

    Raises:
        InputError: if one of them needs more memory than a device has.
    """
    if jax.process_count() > 1 and isinstance(setup.mapper, Replicated):
        return  # pmap makes a program of the shapes of one process alone
    room = capacity(config, setup.mapper)
    steps = dict.fromkeys(phase.active for phase in setup.phases if phase.stop > first_step)
    sizes = sizes or setup.buckets
    for active, size in product(steps, sizes):
        what = f"the step that trains {' and '.join(active)}" + (f" on {size.words}" if len(sizes) > 1 else "")
        with announced(f"compiling {what}", usually="a minute or two"):
            idle, lowered = setup.idle(active), setup.lower(active, size)
            usage = usage_of(lowered)
        peak = bytes_per_device(idle) + usage.peak
        if room is not None and peak > room:
            needed = f"{gb(peak)} GB on each device ({gb(usage.temporaries)} of it for activations)"
            raise InputError(refusal(config, setup, needed, room, activations=usage.temporaries))
