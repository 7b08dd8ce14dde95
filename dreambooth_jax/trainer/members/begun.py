# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Which members take their steps together, and from where: those of a group that was begun, and those that are new.

    FOLDER/<group>/checkpoints/400/     the state of all its members, with what each one is in ``meta``

A group that goes on has the places that it began with: who is finished leaves its place vacant, so that the others'
numbers stay what they are. Where some are not asked for that have not ended, those who are are taken out of it, and
become a group of their own; what the others have come to stays where it is.
"""

import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dreambooth_jax import distributed
from dreambooth_jax.errors import InputError
from dreambooth_jax.members import Member
from dreambooth_jax.prepare.begun import BegunRun, begun_run
from dreambooth_jax.prepare.multihost import check_same
from dreambooth_jax.runs import RunFolder, newest_meta
from dreambooth_jax.trainer.members.faults import Faults
from dreambooth_jax.training.checkpoint import complete_steps
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
        is_restored: from a group's checkpoint, rather than from those of its members.
        source: the group that its members are taken out of, and the names of all its places; None for its own.
    """

    folder: RunFolder
    places: Sequence[str]
    members: Sequence[Member]
    runs: Mapping[str, BegunRun]
    vacant: Mapping[str, Mapping[str, Any]]
    stopped: Mapping[str, Stop]
    first_step: int
    is_restored: bool
    source: tuple[RunFolder, Sequence[str]] | None = None

    def parts(self, size: int) -> "list[Begun]":
        """Its members in groups of at most so many."""
        own = [self.members[first : first + size] for first in range(0, len(self.members), size)]
        if self.is_restored:
            return [self._part(some) for some in own]
        runs = self.runs
        return [
            _fresh(self.folder.path.parent, self.first_step, [(one, runs[one.name]) for one in some]) for some in own
        ]

    def without(self, names: Collection[str]) -> "list[Begun]":
        """Those of its members who are not named, as a group of their own; none if nobody is left."""
        left = [member for member in self.members if member.name not in names]
        return replace(self, members=left).parts(len(left)) if left else []

    def _part(self, members: Sequence[Member]) -> "Begun":
        """Some of its members, who are taken out of it."""
        names = [member.name for member in members]
        return replace(
            self,
            folder=RunFolder(self.folder.path.parent / _word(self.first_step, names)),
            places=names,
            members=members,
            runs={name: self.runs[name] for name in names},
            vacant={},
            stopped={name: stop for name, stop in self.stopped.items() if name in names},
            source=self.source or (self.folder, self.places),
        )


def begun_groups(members: Sequence[Member], folder: Path, faults: Faults) -> list[Begun]:
    """Put members together who go on together.

    Args:
        members: who share a program.
        folder: that groups have folders in.
        faults: learns of those who cannot go on, as if a member's steps were made fewer than it has taken.
    """
    left, found = {member.name: member for member in members}, []
    begun = sorted(folder.glob(f"{GROUP}*/checkpoints"))
    check_same("groups that were begun", " ".join(path.parent.name for path in begun))
    known = [(own, meta) for own in map(RunFolder, (path.parent for path in begun)) if (meta := newest_meta(own))]
    for own, meta in sorted(known, key=lambda one: -one[1]["step"]):  # who was taken out of a group is further than it
        taken = []
        for one in meta["members"]:
            if one["name"] in left:
                with faults.of(one["name"]):
                    taken.append(_going_on(left.pop(one["name"]), one, step=meta["step"]))
        if taken:
            found.append(_restored(own, meta, taken))
    fresh: dict[int, list[tuple[Member, BegunRun]]] = {}
    for member in left.values():
        with faults.of(member.name):
            run = begun_run(RunFolder(Path(member.config.run_dir)), steps=member.config.train.steps)
            fresh.setdefault(run.first_step, []).append((member, run))
    return [*found, *(_fresh(folder, first_step, own) for first_step, own in sorted(fresh.items()))]


def _fresh(folder: Path, first_step: int, own: Sequence[tuple[Member, BegunRun]]) -> Begun:
    places = [member.name for member, _ in own]
    return Begun(
        folder=RunFolder(folder / _word(first_step, places)),
        places=places,
        members=[member for member, _ in own],
        runs={member.name: run for member, run in own},
        vacant={},
        stopped={},
        first_step=first_step,
        is_restored=False,
    )


def _word(first_step: int, places: Sequence[str]) -> str:
    """The name of a group's folder."""
    return f"{GROUP}{zlib.crc32(repr((first_step, list(places))).encode()):08x}"


def has_ended(meta: Mapping[str, Any]) -> bool:
    """Has the member ended of which a group's checkpoint says this? Process 0 looks, for all."""
    steps = meta["config"]["train"]["steps"]
    own = complete_steps(RunFolder(Path(meta["config"]["run_dir"])).checkpoints)
    return bool(distributed.gather(bool(meta["stopped"]) or steps in own)[0])


def all_have_ended(folder: RunFolder, *, but: Sequence[str]) -> bool:
    """Does nobody go on from a group's checkpoint, whatever becomes of some?"""
    meta = newest_meta(folder)
    return meta is None or all([one["name"] in but or has_ended(one) for one in meta["members"]])


def _going_on(member: Member, meta: Mapping[str, Any], *, step: int) -> Member:
    """A member of which a group's checkpoint, of so many steps, says this. Raises InputError if it cannot go on."""
    steps = member.config.train.steps
    check_not_beyond(meta, steps=steps, kept=[])
    if not meta["stopped"] and meta["step"] < min(step, steps):
        raise InputError(
            f"{member.name} ended after {meta['step']} steps, and the others went on to {step}: it cannot "
            f"get more steps (train.steps={steps}) before they have ended, too"
        )
    return member


def _restored(folder: RunFolder, meta: Mapping[str, Any], members: Sequence[Member]) -> Begun:
    metas = {one["name"]: one for one in meta["members"]}
    found = Begun(
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
    return found if all([has_ended(one) for one in found.vacant.values()]) else found.parts(len(members))[0]
