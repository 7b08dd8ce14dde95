# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A whole sweep: what is left of it is announced, done by an engine, and shown."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

from dreambooth_jax import distributed
from dreambooth_jax.errors import InputError
from dreambooth_jax.locks import locked
from dreambooth_jax.members import Grouped, Member, groups
from dreambooth_jax.prepare.fingerprints import Fingerprints
from dreambooth_jax.prepare.multihost import check_same
from dreambooth_jax.sweeps.announce import announcement
from dreambooth_jax.sweeps.engines import ENGINES, EngineOptions, check_engine
from dreambooth_jax.sweeps.jobs import stages_of
from dreambooth_jax.sweeps.overview import MARKDOWN, picture_of, write_overview
from dreambooth_jax.sweeps.status import is_done, status_of
from dreambooth_jax.sweeps.sweep import Sweep

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """What came of a call.

    Attributes:
        folder: of the sweep.
        table: what there is to read; empty where jobs are still to be done.
        picture: of all members; None where there is none.
        signal: that ended the call, if one did.
    """

    folder: Path
    table: str
    picture: Path | None = None
    signal: Signals | None = None


def left_of(members: Sequence[Member], *, at_once: int | None = None) -> Grouped:
    """Groups of those that are not done. Which members are together does not depend on who is done.

    Args:
        members: all.
        at_once: most members of a group; None is as many as share a program, of whom as many take their steps at once
            as fit where they are trained.

    Raises:
        InputError: if one's settings, photos or model have changed since it was begun, or ``at_once`` is no such
            number.
    """
    if at_once is not None and at_once < 1:
        raise InputError(f"--at_once is {at_once}, but must be at least 1")
    made_from = Fingerprints()
    done = {member.name for member in members if is_done(member, made_from)}
    parts = [
        group[first : first + (at_once or len(group))]
        for group in groups(members)
        for first in range(0, len(group), at_once or len(group))
    ]
    left = [tuple(member for member in part if member.name not in done) for part in parts]
    return tuple(part for part in left if part)


def run_sweep(
    sweep: Sweep,
    members: Sequence[Member],
    *,
    engine: str = "local",
    options: EngineOptions | None = None,
    at_once: int | None = None,
) -> SweepResult:
    """Train all members that are not done, and show what came of all; the same call again goes on.

    Args:
        sweep: where they are, and how they are called.
        members: all of them.
        engine: name of who does it.
        options: for engines.
        at_once: most members of a group, of which each is a job; None is as many as share a program.

    Raises:
        InputError: if a member or a job could not be done; the others are, and the overview is of them. Also if
            settings have changed since a member was begun, or the engine is not there.
    """
    options = options or EngineOptions()
    check_engine(engine, options)
    left = left_of(members, at_once=at_once)
    check_same("trainings to do", repr([[member.name for member in group] for group in left]))
    log.info("%s", announcement(members, left, grid=sweep.grid))
    undone: Sequence[str] = ()
    with locked(sweep.folder):
        sweep.write(members)
        stages = stages_of(left)
        if left:
            done = ENGINES[engine](sweep, stages, options)
            if not done.over:
                log.info("%s", done.message or "stopped; the same command goes on")
                return SweepResult(folder=sweep.folder, table="", signal=done.signal)
            undone = done.failed
    table = write_overview(sweep)
    distributed.barrier("the sweep is over")  # process 0 still wrote
    failed = {cell.name: found.error for cell in sweep.cells if (found := status_of(sweep.run_dir(cell.name))).error}
    if failed:
        name, error = next(iter(failed.items()))
        raise InputError(
            f"{len(failed)} of {len(members)} members failed, as {sweep.folder / MARKDOWN} says; {name}: {error}"
        )
    if undone:
        raise InputError(undone[0] + (f"; and {len(undone) - 1} jobs more" if len(undone) > 1 else ""))
    return SweepResult(folder=sweep.folder, table=table, picture=picture_of(sweep.folder))
