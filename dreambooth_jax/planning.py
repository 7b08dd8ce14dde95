# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Does a run fit? Asked before it starts, and before any weights are read.

    state    = parameters + moments + moving average + gradients + networks at rest      exact, from shapes alone
    training = networks at rest + peak of the compiled step
    drawing  = state at rest + peak of the compiled sampler

``train`` asks the first before it reads weights and the second before its first step; ``plan`` asks all and tells.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from dreambooth_jax.assembly import Assembly, Groups, assemble, mapper_of
from dreambooth_jax.checks import check_config
from dreambooth_jax.config import Config
from dreambooth_jax.errors import InputError
from dreambooth_jax.flops import flops
from dreambooth_jax.memory import Usage, bytes_per_device
from dreambooth_jax.prepare import inputs
from dreambooth_jax.target import Target
from dreambooth_jax.training.parallel import Mapper, Replicated, Sharded
from dreambooth_jax.trees import Tree, count, nbytes

GB = 1e9


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """One step of the run, and the phases that take it.

    Attributes:
        active: groups that it trains.
        phases: first step and end of each.
        usage: of the compiled step, on each device.
        resting: bytes of networks that lie on each device meanwhile.
        flops: of one step on all devices together.
    """

    active: Groups
    phases: Sequence[tuple[int, int]]
    usage: Usage
    resting: int
    flops: int

    @property
    def peak(self) -> int:
        """Bytes on each device."""
        return self.resting + self.usage.peak


@dataclass(frozen=True, kw_only=True)
class DrawPlan:
    """The sampler at one number of pictures.

    Attributes:
        purpose: what they are for.
        pictures: at once on each device.
        usage: of the compiled sampler, on each device.
        resting: bytes of the training state that lie on each device meanwhile.
    """

    purpose: str
    pictures: int
    usage: Usage
    resting: int

    @property
    def peak(self) -> int:
        """Bytes on each device."""
        return self.resting + self.usage.peak


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run needs; printed, it is the report of ``dreambooth-jax plan``.

    Attributes:
        model: what is trained, in words.
        machine: what it was compiled for, in words.
        state: bytes on each device of what lasts, by name.
        steps: that the run takes.
        draws: pictures that it makes.
        capacity: bytes of each device; None if nobody knows.
        advice: settings to change, most useful first, with what they do.
    """

    model: str
    machine: str
    state: dict[str, int]
    steps: Sequence[StepPlan]
    draws: Sequence[DrawPlan]
    capacity: int | None
    advice: Sequence[str]

    @property
    def peak(self) -> int:
        """The most bytes that any part of the run needs on a device."""
        return max([step.peak for step in self.steps] + [draw.peak for draw in self.draws])

    @property
    def fits(self) -> bool:
        """Also where the capacity is not known."""
        return self.capacity is None or self.peak <= self.capacity

    @property
    def verdict(self) -> str:
        """In a few words."""
        if self.capacity is None:
            return f"needs {_gb(self.peak)} GB on each device; how much it has is not known"
        return f"needs {_gb(self.peak)} of {_gb(self.capacity)} GB on each device"

    def __str__(self) -> str:
        lines = [self.model, self.machine, "", "on each device, GB"]
        lines += [f"  {name:<24}{_gb(size):>8}" for name, size in self.state.items()]
        for step in self.steps:
            stretch = ", ".join(f"{start} to {stop}" for start, stop in step.phases)
            lines += [
                f"steps {stretch}, training {' and '.join(step.active)}",
                f"  {'activations, gradients':<24}{_gb(step.usage.temporaries):>8}",
                f"  {'peak':<24}{_gb(step.peak):>8}    {step.flops / 1e12:.3g} TFLOP a step, all devices together",
            ]
        for draw in self.draws:
            lines += [
                f"{draw.purpose}, {draw.pictures} at once on each device",
                f"  {'activations':<24}{_gb(draw.usage.temporaries):>8}",
                f"  {'peak':<24}{_gb(draw.peak):>8}",
            ]
        lines += ["", f"{'fits' if self.fits else 'does not fit'}: {self.verdict}"]
        if not self.fits:
            lines += ["what to change, the first that is enough:", *(f"  {line}" for line in self.advice)]
        return "\n".join(lines)


def plan(config: Config, target: Target | None = None) -> Plan:
    """Compile all that a run compiles, without weights or photos, and add up what it needs.

    Args:
        config: of the run.
        target: devices to compile for; by default those that are here.

    Raises:
        InputError: for wrong settings, or a model whose configuration cannot be had.
    """
    check_config(config)
    mapper = mapper_of(config, target or Target.here())
    pipe = inputs.describe_pretrained(config.model, target=mapper.target, dtype=config.train.dtype)
    inputs.check_fit(pipe, config.data)
    assembly = assemble(config, pipe, mapper)
    steps = [step_plan(assembly, active) for active in assembly.steps]
    groups = {name: f"{count(tree) / 1e6:.1f}M {name}" for name, tree in pipe.params.items()}
    trained = " and ".join(groups[name] for name in assembly.trainable)
    resting = " and ".join(groups[name] for name in assembly.frozen)
    batch = max(bytes_per_device(mapper.batch_shapes(assembly.batch(active))) for active in assembly.steps)
    return Plan(
        model=f"training {trained}; {resting} rest; {assembly.rows} examples a step",
        machine=_machine(mapper, np.dtype(pipe.unet.dtype).name),
        state=state_bytes(assembly) | {"batch": batch},
        steps=steps,
        draws=list(draw_plans(assembly)),
        capacity=capacity(config, mapper),
        advice=list(advice(assembly, activations=max(step.usage.temporaries for step in steps))),
    )


def _machine(mapper: Mapper, dtype: str) -> str:
    devices = mapper.devices
    way = type(mapper).__name__.lower() if len(devices) > 1 else "alone"
    line = f"compiled for {len(devices)} x {devices[0].device_kind}, {way}, computing in {dtype}"
    if devices[0].platform != "cpu":
        return line
    # jaxlib 0.10 merges on CPUs what it should compute again
    return f"{line}: activations are a CPU's; GPU and TPU have other attention and lay out memory otherwise"


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


def step_plan(assembly: Assembly, active: Groups, *, compiled: jax.stages.Compiled | None = None) -> StepPlan:
    """Compile a step, if that was not done, and ask what it needs."""
    state, frozen, batch, key = assembly.step_shapes(active)
    return StepPlan(
        active=active,
        phases=[(phase.start, phase.stop) for phase in assembly.phases if phase.active == active],
        usage=Usage.of(compiled or assembly.lower(active).compile()),
        resting=_resting(assembly, frozen),
        flops=flops(assembly.pure_steps[active], state, frozen, batch, key),
    )


def draw_plans(assembly: Assembly) -> Iterator[DrawPlan]:
    """Class images before the first step, sample grids between steps."""
    config, pipe, n = assembly.config, assembly.pipe, len(assembly.mapper.devices)
    size = config.data.resolution
    usages: dict[int, Usage] = {}

    def draw(purpose: str, pictures: int, resting: int) -> DrawPlan:
        if pictures not in usages:
            usages[pictures] = Usage.of(pipe.lower(pictures * n, height=size, width=size).compile())
        return DrawPlan(purpose=purpose, pictures=pictures, usage=usages[pictures], resting=resting)

    if config.prior.weight:
        room = capacity(config, assembly.mapper)
        pictures = inputs.class_batch(pipe, prior=config.prior, size=size, room=room, missing=config.prior.num_images)
        yield draw("class images", pictures, 0)
    if config.samples.every:
        state = bytes_per_device(assembly.mapper.shapes(assembly.state))
        # one device draws with the weights of the state; several first make a whole copy on each
        shared = nbytes(assembly.trainable) if n == 1 else 0
        yield draw("sample grids", -(-config.samples.num_images // n), state - shared)


def check_state(config: Config, mapper: Mapper) -> None:
    """Raise InputError if not even what a run holds between steps fits. Nothing is compiled, no weights are read."""
    assembly = assemble(
        config, inputs.describe_pretrained(config.model, target=mapper.target, dtype=config.train.dtype), mapper
    )
    sizes, room = state_bytes(assembly), capacity(config, mapper)
    needed = sum(sizes.values())
    if room is not None and needed > room:
        parts = " + ".join(f"{name} {_gb(size)}" for name, size in sizes.items())
        raise InputError(_refusal(assembly, f"{_gb(needed)} GB on each device ({parts})", room, activations=0))


def check_steps(assembly: Assembly, *, first_step: int) -> None:
    """Compile the steps that are still to be taken, which then run as compiled here.

    Raises:
        InputError: if one of them needs more memory than a device has.
    """
    if jax.process_count() > 1 and isinstance(assembly.mapper, Replicated):
        return  # pmap makes a program of the shapes of one process alone
    room = capacity(assembly.config, assembly.mapper)
    for active in dict.fromkeys(phase.active for phase in assembly.phases if phase.stop > first_step):
        usage = Usage.of(assembly.lower(active).compile())
        resting = _resting(assembly, assembly.needed(active, assembly.frozen))
        if room is not None and resting + usage.peak > room:
            needed = f"{_gb(resting + usage.peak)} GB on each device ({_gb(usage.temporaries)} of it for activations)"
            raise InputError(_refusal(assembly, needed, room, activations=usage.temporaries))


def _resting(assembly: Assembly, needed: Tree) -> int:
    """Bytes on each device of frozen networks that a step does not take."""
    shapes = assembly.mapper.shapes
    return bytes_per_device(shapes(assembly.frozen)) - bytes_per_device(shapes(needed))


def _refusal(assembly: Assembly, needed: str, room: int, *, activations: int) -> str:
    ways = "; ".join(list(advice(assembly, activations=activations))[:3]) or "a smaller model, or a larger device"
    return f"this run does not fit: a step needs {needed}, there are {_gb(room)}. Try {ways}"


def advice(assembly: Assembly, *, activations: int) -> Iterator[str]:
    """``KEY=VALUE`` and what it does, in the order in which they cost least.

    Args:
        assembly: of the run as it is.
        activations: bytes that a step needs besides what it is given; 0 if these are not the problem.
    """
    config, mapper, n = assembly.config, assembly.mapper, len(assembly.mapper.devices)
    trained = bytes_per_device(mapper.shapes(assembly.trainable))
    share = assembly.rows // config.train.accumulation // n
    if activations and assembly.pipe.unet.dtype == np.float32 and mapper.devices[0].platform != "cpu":
        yield f"train.dtype=bfloat16: half of the {_gb(activations)} GB of activations"
    if activations and config.train.remat != "blocks":
        yield "train.remat=blocks: most of the activations are computed again, for a third more time"
    if config.optimizer.kind != "adafactor":
        if config.optimizer.moments == "float32":
            yield f"optimizer.moments=bfloat16: {_gb(trained / 2)} GB less"
        moments = bytes_per_device(mapper.shapes(assembly.state.opt_state))
        yield f"optimizer.kind=adafactor (with moments, beta1, beta2 and eps left out): about {_gb(moments)} GB less"
    if activations and share > 1:
        yield f"train.accumulation={config.train.accumulation * share}: activations of one example at a time"
    if n > 1 and not isinstance(mapper, Sharded):
        yield f"train.parallel=fsdp: parameters, moments and gradients split over {n} devices"
    if config.train.ema_decay:
        yield f"train.ema_decay=0: {_gb(trained)} GB less"
    if "text_encoder" in assembly.trainable:
        yield "text_encoder.stop=0: the text encoder rests"
    if activations and config.train.batch_size > 1 and assembly.rows // 2 % (n * config.train.accumulation) == 0:
        yield f"train.batch_size={config.train.batch_size // 2}: half of the activations"


def _gb(size: float | int) -> str:
    return f"{size / GB:.3g}"
