# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is measured: parts, and the rows of each, the most telling first: what the time does not suffice for is last.

Every row is a process of its own, so that its memory and what goes wrong in it are its own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

OURS, EAGER, COMPILE = "ours", "eager", "compile"
USUAL, AGAIN = "bfloat16", " again"
FRESH = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
"""Kernels are picked when a program is compiled: two runs that share it would be equal for that alone."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much of everything.

    Attributes:
        model: size of the model, of ``real_size.model.SIZES``.
        batches: instance examples of a step; as many class examples come on top.
        members: subjects that take their steps together.
        repeats: measured steps.
        pictures: drawn at once.
        draw_steps: of a DDIM run.
        draws: measured DDIM runs.
        class_images: of the whole job.
        steps: of the whole job.
        compared: steps of runs that are compared with each other.
    """

    model: str
    batches: tuple[int, ...]
    members: tuple[int, ...]
    repeats: int
    pictures: tuple[int, ...]
    draw_steps: int
    draws: int
    class_images: int
    steps: int
    compared: int


SCALES = {
    "sd15": Scale(
        model="sd15", batches=(1, 4, 32, 8, 16), members=(16, 1, 4), repeats=20, pictures=(1, 8), draw_steps=50,
        draws=3, class_images=200, steps=800, compared=50,
    ),
    "tiny": Scale(
        model="tiny", batches=(1,), members=(2,), repeats=2, pictures=(1,), draw_steps=2, draws=1, class_images=2,
        steps=4, compared=3,
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """One thing to measure.

    Attributes:
        name: within its part.
        task: of ``tasks.TASKS``.
        peer: who does it.
        arguments: of the task.
        limit: seconds after which it is given up.
        otherwise: arguments to try instead where the memory does not suffice.
        environment: variables of its process.
    """

    name: str
    task: str
    peer: str = OURS
    arguments: dict[str, Any]
    limit: float = 150.0
    otherwise: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


def steps(peer: str) -> Callable[[Scale], Iterator[Row]]:
    """Optimizer steps at all sizes. Only at the first is the loss compared, which compiles another program."""

    def rows(scale: Scale) -> Iterator[Row]:
        if peer == OURS:
            yield Row(name="device", task="device", arguments={}, limit=60)
        for batch in scale.batches:
            check = peer != COMPILE and batch == scale.batches[0]
            arguments = {"batch": batch, "repeats": scale.repeats, "remat": "nothing", "check": check}
            name = f"{batch}+{batch}"
            limit = 240.0 if peer == COMPILE else 150.0
            otherwise = {"remat": "blocks"}
            yield Row(name=name, task="step", peer=peer, arguments=arguments, otherwise=otherwise, limit=limit)

    return rows


def members(scale: Scale) -> Iterator[Row]:
    """Steps of subjects that are trained by one program: LoRA beside the layers, 1+1 examples each."""
    for count in scale.members:
        arguments = {"count": count, "steps": scale.steps, "repeats": scale.repeats, "remat": "nothing"}
        yield Row(name=f"{count} members", task="members", arguments=arguments, otherwise={"remat": "blocks"})


def pictures(scale: Scale) -> Iterator[Row]:
    """DDIM runs of everybody."""
    for count in scale.pictures:
        for peer in (OURS, COMPILE, EAGER):
            arguments = {"batch": count, "steps": scale.draw_steps, "repeats": scale.draws}
            yield Row(name=f"{peer} {count}", task="ddim", peer=peer, arguments=arguments)


def whole(scale: Scale) -> Iterator[Row]:
    """Photos to a model, as a user waits for it."""
    settings = {
        "prior.num_images": scale.class_images,
        "prior.steps": scale.draw_steps,
        "train.steps": scale.steps,
        "checkpoint.every": scale.steps,
    }
    arguments = {"settings": settings, "photos": 4, "class_photos": 0, "plan": True}
    yield Row(name="whole", task="train", arguments=arguments, limit=500)


def training(scale: Scale) -> Iterator[Row]:
    """Short runs that differ in one setting, or in none."""
    exact = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}  # or products of float32 are rounded to TF32
    usual, deterministic = {"train.dtype": "bfloat16"}, {"train.dtype": "bfloat16", "train.deterministic": True}
    compared: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
        USUAL: (usual, FRESH),
        "deterministic": (deterministic, FRESH),
        f"deterministic{AGAIN}": (deterministic, FRESH),
        "float32": ({"train.dtype": "float32"}, exact),
        f"{USUAL}{AGAIN}": (usual, FRESH),
    }
    shared = {"train.steps": scale.compared, "checkpoint.every": scale.compared, "train.log_every": 1}
    for name, (setting, environment) in compared.items():
        settings = shared | {"prior.num_images": 4} | setting
        arguments = {"settings": settings, "photos": 4, "class_photos": 4, "plan": False}
        yield Row(name=name, task="train", arguments=arguments, environment=environment)


PARTS: dict[str, Callable[[Scale], Iterator[Row]]] = {
    "ours": steps(OURS),
    "compile": steps(COMPILE),
    "training": training,
    "whole": whole,
    "members": members,
    "pictures": pictures,
    "eager": steps(EAGER),
}
SHARES = {
    "ours": 320, "compile": 300, "training": 250, "whole": 280, "members": 130, "pictures": 130, "eager": 80,
}  # fmt: skip
"""Seconds of each part in a run of all; what one does not need the next may have."""
