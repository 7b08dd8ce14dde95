# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A run that cannot fit is refused: before it reads weights, and before its first step.

    state    = parameters + moments + moving average + gradients + networks at rest      exact, from shapes alone
    training = networks at rest + peak of the compiled step

Both are compared with what the target has, or ``train.device_memory`` says.
"""

import jax

from dreambooth_jax.config import Config
from dreambooth_jax.errors import InputError
from dreambooth_jax.memory import bytes_per_device, usage_of
from dreambooth_jax.pipeline import describe_pretrained
from dreambooth_jax.planning.advice import advice
from dreambooth_jax.planning.result import GB, gb
from dreambooth_jax.progress import announced
from dreambooth_jax.train_setup import TrainSetup, build_train_setup
from dreambooth_jax.training.parallel import Mapper, Replicated
from dreambooth_jax.trees import Tree


def capacity(config: Config, mapper: Mapper) -> int | None:
    """Bytes of each device: what the config says, or else the target."""
    said = config.train.device_memory
    return int(said * GB) if said is not None else mapper.target.memory


def state_bytes(setup: TrainSetup) -> dict[str, int]:
    """Bytes on each device of what a run holds between steps, and of the gradients, which no step can do without."""
    mapper = setup.mapper
    state = mapper.shapes(setup.state)
    gradients = (
        bytes_per_device(mapper.shapes({group: setup.trainable[group] for group in active})) for active in setup.steps
    )
    sizes = {
        "parameters": bytes_per_device(state.trainable),
        f"moments ({setup.config.optimizer.kind})": bytes_per_device(state.opt_state),
        "moving average": bytes_per_device(state.ema),
        "gradients": max(gradients),
        "networks at rest": bytes_per_device(mapper.shapes(setup.frozen)),
    }
    return {name: size for name, size in sizes.items() if size}


def check_state(config: Config, mapper: Mapper) -> None:
    """Raise InputError if not even what a run holds between steps fits. Nothing is compiled, no weights are read."""
    setup = build_train_setup(
        config,
        describe_pretrained(
            config.model.path, revision=config.model.revision, target=mapper.target, dtype=config.train.dtype
        ),
        mapper,
    )
    sizes, room = state_bytes(setup), capacity(config, mapper)
    needed = sum(sizes.values())
    if room is not None and needed > room:
        parts = " + ".join(f"{name} {gb(size)}" for name, size in sizes.items())
        raise InputError(_refusal(setup, f"{gb(needed)} GB on each device ({parts})", room, activations=0))


def check_steps(setup: TrainSetup, *, first_step: int) -> None:
    """Compile the steps that are still to be taken, which then run as compiled here.

    Raises:
        InputError: if one of them needs more memory than a device has.
    """
    if jax.process_count() > 1 and isinstance(setup.mapper, Replicated):
        return  # pmap makes a program of the shapes of one process alone
    room = capacity(setup.config, setup.mapper)
    for active in dict.fromkeys(phase.active for phase in setup.phases if phase.stop > first_step):
        with announced(f"compiling the step that trains {' and '.join(active)}", usually="a minute or two"):
            usage = usage_of(setup.lower(active))
        peak = idle_bytes(setup, setup.frozen_in_step(active, setup.frozen)) + usage.peak
        if room is not None and peak > room:
            needed = f"{gb(peak)} GB on each device ({gb(usage.temporaries)} of it for activations)"
            raise InputError(_refusal(setup, needed, room, activations=usage.temporaries))


def idle_bytes(setup: TrainSetup, needed: Tree) -> int:
    """Bytes on each device of frozen networks that a step does not take."""
    shapes = setup.mapper.shapes
    return bytes_per_device(shapes(setup.frozen)) - bytes_per_device(shapes(needed))


def _refusal(setup: TrainSetup, needed: str, room: int, *, activations: int) -> str:
    ways = "; ".join(list(advice(setup, activations=activations))[:3]) or "a smaller model, or a larger device"
    return f"this run does not fit: a step needs {needed}, there are {gb(room)}. Try {ways}"
