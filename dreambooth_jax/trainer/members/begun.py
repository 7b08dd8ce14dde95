# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Which members take their steps together, and from where: those of a group that was begun, and those that are new.

    FOLDER/<group>/checkpoints/400/     the state of all its members, with what each one is in ``meta``

A group that goes on has the places that it began with: who is finished, or not asked for, leaves its place vacant, so
that the others' numbers stay what they are.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth_jax.errors import InputError
from dreambooth_jax.members import Member
from dreambooth_jax.prepare.begun import BegunRun, begun_run
from dreambooth_jax.prepare.multihost import check_same
from dreambooth_jax.runs import RunFolder, newest_meta
from dreambooth_jax.training.member_metrics import Stop
from dreambooth_jax.training.resume import check_not_beyond

GROUP = "group_"
"""How names of groups' folders begin."""


@dataclass(frozen=True, kw_only=True)
class Begun:
    """Members who go on together.

    Attributes:
        folder: of the group.
        places: names of its members, in the order of their numbers.
        members: of those places that are taken.
        runs: of each of these, by its name, how far it has come.
        vacant: of the other places, what the checkpoint says of who had them.
        stopped: those that are stopped, by their names.
        first_step: steps that the group has taken.
        is_restored: from its own checkpoint, rather than from those of its members.
    """

    folder: RunFolder
    places: Sequence[str]
    members: Sequence[Member]
    runs: Mapping[str, BegunRun]
    vacant: Mapping[str, Mapping[str, Any]]
    stopped: Mapping[str, Stop]
    first_step: int
    is_restored: bool


def begun_groups(members: Sequence[Member], folder: Path) -> list[Begun]:
    """Put members together who go on together.

    Args:
        members: who share a program.
        folder: that groups have folders in.

    Raises:
        InputError: if a member's steps were made fewer than it has taken.
    """
    left, found = {member.name: member for member in members}, []
    begun = sorted(folder.glob(f"{GROUP}*/checkpoints"))
    check_same("groups that were begun", " ".join(path.parent.name for path in begun))
    for checkpoints in begun:
        own = RunFolder(checkpoints.parent)
        meta = newest_meta(own)
        taken = [left.pop(one["name"]) for one in meta["members"] if one["name"] in left] if meta else []
        if meta and taken:
            found.append(_restored(own, meta, taken))
    fresh: dict[int, list[tuple[Member, BegunRun]]] = {}
    for member in left.values():
        run = begun_run(RunFolder(Path(member.config.run_dir)), steps=member.config.train.steps)
        fresh.setdefault(run.first_step, []).append((member, run))
    return [*found, *(_fresh(folder, first_step, own) for first_step, own in sorted(fresh.items()))]


def _fresh(folder: Path, first_step: int, own: Sequence[tuple[Member, BegunRun]]) -> Begun:
    places = [member.name for member, _ in own]
    word = f"{GROUP}{zlib.crc32(repr((first_step, places)).encode()):08x}"
    return Begun(
        folder=RunFolder(folder / word),
        places=places,
        members=[member for member, _ in own],
        runs={member.name: run for member, run in own},
        vacant={},
        stopped={},
        first_step=first_step,
        is_restored=False,
    )


def _restored(folder: RunFolder, meta: Mapping[str, Any], members: Sequence[Member]) -> Begun:
    metas = {one["name"]: one for one in meta["members"]}
    for member in members:
        one, steps = metas[member.name], member.config.train.steps
        check_not_beyond(one, steps=steps, kept=[])
        if not one["stopped"] and one["step"] < min(meta["step"], steps):
            raise InputError(
                f"{member.name} ended after {one['step']} steps, and the others went on to {meta['step']}: it cannot "
                f"get more steps (train.steps={steps}) before they have ended, too"
            )
    return Begun(
        folder=folder,
        places=list(metas),
        members=members,
        runs={member.name: BegunRun(meta=metas[member.name]) for member in members},
        vacant={name: one for name, one in metas.items() if name not in {member.name for member in members}},
        stopped={
            member.name: Stop(metas[member.name]["step"], metas[member.name]["stopped"])
            for member in members
            if metas[member.name]["stopped"]
        },
        first_step=meta["step"],
        is_restored=True,
    )
