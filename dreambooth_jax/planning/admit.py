# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A run that cannot fit is refused: before it reads weights, and before its first step.

    state    = parameters + moments + moving average + gradients + networks at rest      exact, from shapes alone
    training = networks at rest + peak of the compiled step

Both are compared with what the target has, or ``train.device_memory`` says.
"""

import jax

from dreambooth_jax.assembly import Assembly, assemble
from dreambooth_jax.config import Config
from dreambooth_jax.errors import InputError
from dreambooth_jax.memory import bytes_per_device, usage_of
from dreambooth_jax.planning.advice import advice
from dreambooth_jax.planning.result import GB, gb
from dreambooth_jax.prepare import inputs
from dreambooth_jax.training.parallel import Mapper, Replicated
from dreambooth_jax.trees import Tree


def capacity(config: Config, mapper: Mapper) -> int | None:
    """Bytes of each device: what the config says, or else the target."""
    said = config.train.device_memory
    return int(said * GB) if said is not None else mapper.target.memory


def state_bytes(assembly: Assembly) -> dict[str, int]:
    """Bytes on each device of what a run holds between steps, and of the gradients, which no step can do without."""
    mapper = assembly.mapper
    state = mapper.shapes(assembly.state)
    gradients = (
        bytes_per_device(mapper.shapes({group: assembly.trainable[group] for group in active}))
        for active in assembly.steps
    )
    sizes = {
        "parameters": bytes_per_device(state.trainable),
        f"moments ({assembly.config.optimizer.kind})": bytes_per_device(state.opt_state),
        "moving average": bytes_per_device(state.ema),
        "gradients": max(gradients),
        "networks at rest": bytes_per_device(mapper.shapes(assembly.frozen)),
    }
    return {name: size for name, size in sizes.items() if size}


def check_state(config: Config, mapper: Mapper) -> None:
    """Raise InputError if not even what a run holds between steps fits. Nothing is compiled, no weights are read."""
    assembly = assemble(
        config, inputs.describe_pretrained(config.model, target=mapper.target, dtype=config.train.dtype), mapper
    )
    sizes, room = state_bytes(assembly), capacity(config, mapper)
    needed = sum(sizes.values())
    if room is not None and needed > room:
        parts = " + ".join(f"{name} {gb(size)}" for name, size in sizes.items())
        raise InputError(_refusal(assembly, f"{gb(needed)} GB on each device ({parts})", room, activations=0))


def check_steps(assembly: Assembly, *, first_step: int) -> None:
    """Compile the steps that are still to be taken, which then run as compiled here.

    Raises:
        InputError: if one of them needs more memory than a device has.
    """
    if jax.process_count() > 1 and isinstance(assembly.mapper, Replicated):
        return  # pmap makes a program of the shapes of one process alone
    room = capacity(assembly.config, assembly.mapper)
    for active in dict.fromkeys(phase.active for phase in assembly.phases if phase.stop > first_step):
        usage = usage_of(assembly.lower(active))
        peak = resting(assembly, assembly.needed(active, assembly.frozen)) + usage.peak
        if room is not None and peak > room:
            needed = f"{gb(peak)} GB on each device ({gb(usage.temporaries)} of it for activations)"
            raise InputError(_refusal(assembly, needed, room, activations=usage.temporaries))


def resting(assembly: Assembly, needed: Tree) -> int:
    """Bytes on each device of frozen networks that a step does not take."""
    shapes = assembly.mapper.shapes
    return bytes_per_device(shapes(assembly.frozen)) - bytes_per_device(shapes(needed))


def _refusal(assembly: Assembly, needed: str, room: int, *, activations: int) -> str:
    ways = "; ".join(list(advice(assembly, activations=activations))[:3]) or "a smaller model, or a larger device"
    return f"this run does not fit: a step needs {needed}, there are {gb(room)}. Try {ways}"
