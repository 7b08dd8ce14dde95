# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Sweeps whose members nobody has trained: their folders are written as runs write them."""

import json
from collections.abc import Mapping
from pathlib import Path

from dreambooth_jax.config import save_config
from dreambooth_jax.members import Member
from dreambooth_jax.members.axes import take_axes
from dreambooth_jax.members.expand import expand
from dreambooth_jax.sweeps.grid import grid_of
from dreambooth_jax.sweeps.sweep import Sweep, axis_names

BASE = ["--model.path=model", "--data.class_noun=dog", "--data.instance_images=photos", "--samples.every=0"]


def planned(folder: Path, *options: str) -> tuple[Sweep, tuple[Member, ...]]:
    """A sweep and its members."""
    others, axes = take_axes([*BASE, *options])
    grid, trained = grid_of(axes)
    members, cells = expand(others, trained, folder=folder, within="members")
    return Sweep(folder=folder, within="members", axes=axis_names(trained), cells=cells, grid=grid), members


def finish(
    member: Member,
    *,
    loss: float,
    validation_loss: float | None = None,
    step: int | None = None,
    scores: Mapping[str, float] | None = None,
) -> None:
    """Write what a run leaves that has ended."""
    folder, step = Path(member.config.run_dir), step or member.config.train.steps
    folder.mkdir(parents=True, exist_ok=True)
    save_config(folder / "config.yaml", member.config)
    lines = [{"step": step, "loss": loss}]
    lines += [] if validation_loss is None else [{"step": step, "validation_loss": validation_loss}]
    lines += [{"step": step, **scores}] if scores else []
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"torn')
    (folder / "lora.safetensors").write_text("")
    (folder / "exported.json").write_text(json.dumps({"step": step, "files": ["lora.safetensors"]}))
