# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The work of a sweep as independent jobs, in stages: class images, then trainings, then the overview.

Each job can be done by any process that sees the folder: ``python -m dreambooth_jax.cli.job FILE STAGE NUMBER``.
What is done already is not done again, so that a job may be given up and tried anew.
"""

import json
import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Literal

import jax
import numpy as np

from dreambooth_jax import distributed
from dreambooth_jax.config.concepts import makes_class_images
from dreambooth_jax.errors import InputError
from dreambooth_jax.locks import InUseError
from dreambooth_jax.members import Grouped, Member, shares_a_program
from dreambooth_jax.prepare.class_image_store import usable_pictures
from dreambooth_jax.prepare.class_photos import make_class_images
from dreambooth_jax.prepare.fingerprints import Fingerprints
from dreambooth_jax.prepare.multihost import VISIBLE_WITHIN
from dreambooth_jax.sweeps.overview import write_overview
from dreambooth_jax.sweeps.status import is_done, say_error
from dreambooth_jax.sweeps.sweep import JOBS, Sweep
from dreambooth_jax.text_files import read_text, write_text
from dreambooth_jax.trainer import train
from dreambooth_jax.trainer.members import run_group

log = logging.getLogger(__name__)

STAGES = "stages"
"""How names of files of jobs begin: each call's own, since those of an earlier one may still wait to be done."""
GROUPS = "groups"
"""Folder of the states of groups that are being trained."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A part of the work, which depends on the stages before alone.

    Attributes:
        kind: what is done.
        members: names of those that it is done for.
    """

    kind: Literal["class_images", "train", "overview"]
    members: tuple[str, ...] = ()


Stages = Sequence[Sequence[Job]]


def stages_of(left: Grouped) -> list[list[Job]]:
    """What is to be done: first class images, which several groups would make at once, then groups, then the overview.

    Args:
        left: members that are not done, in groups.
    """
    makers: dict[str, Member] = {}
    for member in (member for group in left for member in group if makes_class_images(member.config)):
        place, count = str(member.config.prior.class_images), member.config.prior.num_images
        if count and (place not in makers or makers[place].config.prior.num_images < count):
            makers[place] = member
    found = [
        [Job(kind="class_images", members=(member.name,)) for member in makers.values()],
        [Job(kind="train", members=tuple(member.name for member in group)) for group in left],
        [Job(kind="overview")],
    ]
    return [stage for stage in found if stage]


def write_stages(folder: Path, stages: Stages) -> Path:
    """For jobs that other processes do. Returns the file."""
    contents = [[asdict(job) for job in stage] for stage in stages]
    text = json.dumps(contents, indent=1) + "\n"
    file = folder / JOBS / f"{STAGES}_{zlib.crc32(text.encode()):08x}.json"
    write_text(file, text)
    return file


def read_job(file: Path, stage: int, number: int) -> Job:
    """A job of :func:`write_stages`."""
    found: Mapping = json.loads(read_text(file))[stage][number]
    return Job(kind=found["kind"], members=tuple(found["members"]))


def run_job(sweep: Sweep, job: Job) -> Signals | None:
    """Do a job. Returns the signal that ended it early, if one did.

    A member that cannot go on is written down, and the others do. Of class images that cannot be made, those say so
    who need them.

    Raises:
        InUseError: when the others are done, if another process trains a member, in whose folder nothing is written.
        KeyboardInterrupt: after Ctrl-C.
    """
    if job.kind == "class_images":
        try:
            return _make_class_images(sweep.member(job.members[0]))
        except InputError as error:  # also if another process trains the member: trainings wait for this stage
            log.warning("%s", error)
            return None
    if job.kind == "overview":
        log.info("%s", write_overview(sweep))
        return None
    members = [sweep.member(name) for name in job.members]
    made_from = Fingerprints()
    settled = distributed.gather(np.asarray([_is_settled(member, made_from) for member in members]))[0]
    left = [member for member, is_settled in zip(members, settled) if not is_settled]
    if left and shares_a_program(left[0].config):
        return _train_together(left, sweep.folder / GROUPS)
    return _train_all(left)


def _make_class_images(member: Member) -> Signals | None:
    folder = make_class_images(member.config)
    is_whole = len(usable_pictures(folder)) >= member.config.prior.num_images
    return None if is_whole else SIGTERM


def _is_settled(member: Member, made_from: Fingerprints) -> bool:
    """Is there nothing to do for a member, or nothing that can be done? Then that is written down."""
    try:
        return is_done(member, made_from)
    except InputError as error:
        _say_failed(member, str(error))
        return True


def _say_failed(member: Member, error: str) -> None:
    log.warning("%s: %s", member.name, error)
    say_error(Path(member.config.run_dir), error)


def _train_together(members: Sequence[Member], folder: Path) -> Signals | None:
    """Train members of one program at once."""
    log.info("%s", ", ".join(member.name for member in members))
    for member in members:
        say_error(Path(member.config.run_dir), "")
    try:
        outcomes = run_group(members, folder)
    except InUseError:
        raise
    except InputError as error:
        if not distributed.all_are_here(within=VISIBLE_WITHIN):
            raise  # who failed alone ends, which ends the others: they wait for it somewhere else
        for member in members:
            _say_failed(member, str(error))
        return None
    finally:
        jax.clear_caches()  # a process keeps each program that it has compiled; the next finds its own on disk
    for member, outcome in zip(members, outcomes):
        if outcome.stopped and not outcome.in_use:
            _say_failed(member, outcome.stopped)
    left = [one.result for one in outcomes if not one.result.finished and not one.stopped]
    _check_free([one.stopped for one in outcomes if one.in_use and not left])
    return (left[0].signal or SIGTERM) if left else None


def _check_free(in_use: Sequence[str]) -> None:
    """Raise InUseError if members are in use; it is said of each."""
    if in_use:
        raise InUseError(in_use[0] + (f"; and {len(in_use) - 1} members more" if len(in_use) > 1 else ""))


def _train_all(members: Sequence[Member]) -> Signals | None:
    """Train members one after the other."""
    in_use = []
    for member in members:
        try:
            log.info("%s", member.name)
            say_error(Path(member.config.run_dir), "")
            result = train(member.config)
        except InUseError as error:
            in_use.append(str(error))
            continue
        except InputError as error:
            if not distributed.all_are_here(within=VISIBLE_WITHIN):
                raise
            _say_failed(member, str(error))
            continue
        finally:
            jax.clear_caches()
        if not result.finished:
            return result.signal or SIGTERM
    _check_free(in_use)
    return None
