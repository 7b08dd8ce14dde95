# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``dreambooth-jax sweep``: all combinations of some settings, trained, scored and shown.

``train data.subjects=...`` is a sweep over subjects alone.
"""

import logging
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth_jax.cli.messages import print_result
from dreambooth_jax.cli.processes import PROCESSES, join_processes
from dreambooth_jax.cli.settings import USAGE, begin, config_files
from dreambooth_jax.cli.verb import Call, Option, Verb
from dreambooth_jax.config import Config
from dreambooth_jax.config.files import read_settings
from dreambooth_jax.errors import InputError

if TYPE_CHECKING:
    from dreambooth_jax.members import Member
    from dreambooth_jax.members.axes import Axis
    from dreambooth_jax.sweeps.run import SweepResult
    from dreambooth_jax.sweeps.sweep import Sweep

log = logging.getLogger(__name__)


def take(options: list[str], *, texts: bool = True) -> "tuple[list[str], list[Axis]]":
    """Axes, out of the options: settings with several values, and those that a file lists under ``sweep``.

    Args:
        options: ``--KEY=VALUE`` each.
        texts: are commas in settings that are texts between values, too?
    """
    from dreambooth_jax.members.axes import check_axes, take_axes
    from dreambooth_jax.members.listed import SWEEP, listed_axes, settings_beside

    files = [option.partition("=")[2] for option in options if option.startswith("--config=")]
    sweeps = {name: found for name in files if SWEEP in (found := read_settings(name))}
    listed = [axis for name, found in sweeps.items() for axis in listed_axes(found[SWEEP], name=name)]
    rest, axes = take_axes([one for one in options if one.removeprefix("--config=") not in sweeps], texts=texts)
    first = [one for found in sweeps.values() for one in settings_beside(found)]
    own = {axis.key for axis in axes} | {one.removeprefix("--").partition("=")[0] for one in rest}
    axes = [*(axis for axis in listed if axis.key not in own), *axes]
    check_axes(axes)
    places = [number for number, one in enumerate(rest) if one.startswith("--config=")]
    at = places[-1] + 1 if places else 0  # after files, before what the command line says
    return [*rest[:at], *first, *rest[at:]], axes


def sweep(call: Call) -> None:
    """Train all combinations that are not done, and show what came of all.

    Raises:
        InputError: if nothing is varied, or anything is wrong with it.
        KeyboardInterrupt: after Ctrl-C, when all is saved.
    """
    axes = list(call.taken)
    if not axes and not call.settings.data.subjects:
        raise InputError("nothing is varied: give a setting several values, such as train.seed=0,1,2, or data.subjects")
    run_all(call, axes, within="members" if axes else "subjects")


def run_all(call: Call, axes: "Sequence[Axis]", *, within: str) -> None:
    """What ``sweep`` and ``train data.subjects=...`` share.

    Args:
        call: of the command line.
        axes: besides subjects.
        within: name of the folder that has the members' own.
    """
    begin(call.settings)
    from dreambooth_jax.sweeps.engines import EngineOptions, check_engine

    options = call.options
    given = {name: options[name] for name in ("gpus", "cpus", "retries", "submit") if options.get(name) is not None}
    engine, of_engine, at_once = options.get("engine") or "local", EngineOptions(**given), most_at_once(options)
    check_engine(engine, of_engine)
    made, members = planned(call, axes, within=within)
    if options.get("dry_run"):
        from dreambooth_jax.sweeps.announce import announcement
        from dreambooth_jax.sweeps.run import left_of

        print(announcement(members, left_of(members, at_once=at_once), grid=made.grid))
        return
    join_processes({name: options[name] for name in PROCESSES})
    from dreambooth_jax.sweeps.run import run_sweep

    result = run_sweep(made, members, engine=engine, options=of_engine, at_once=at_once)
    _show(result)


def most_at_once(options: Mapping[str, Any]) -> int | None:
    """``--at_once`` as a number; None leaves it to the devices.

    Raises:
        InputError: for what is no number.
    """
    said = options.get("at_once")
    if said in (None, "auto"):
        return None
    if not said.isdecimal():
        raise InputError(f"--at_once is {said}, but must be auto or a whole number of members")
    return int(said)


def planned(call: Call, axes: "Sequence[Axis]", *, within: str) -> "tuple[Sweep, tuple[Member, ...]]":
    """(the sweep, its members)."""
    from dreambooth_jax.members.expand import expand
    from dreambooth_jax.members.subjects import subjects_axis
    from dreambooth_jax.sweeps.grid import grid_of
    from dreambooth_jax.sweeps.sweep import Sweep, axis_names

    data, folder = call.settings.data, Path(call.settings.run_dir)
    if data.subjects:
        for key, is_given in (("instance_images", "data.instance_images" in call.told), ("concepts", data.concepts)):
            if is_given:
                raise InputError(f"data.subjects and data.{key} are both given: leave one out")
        # a file that brings a subject of its own, as the quick start does, speaks of that one's class
        of_another = data.instance_images and "data.class_noun" not in call.told
        varied = [axis.choices[0].text for axis in axes if axis.key == "data.class_noun"]  # takes its place in each
        (noun, *_) = [*varied, "" if of_another else data.class_noun]
        axes = [subjects_axis(data.subjects, class_noun=noun), *axes]
    grid, trained = grid_of(axes)
    members, cells = expand(call.words, trained, folder=folder, within=within)
    return Sweep(folder=folder, within=within, axes=axis_names(trained), cells=cells, grid=grid), members


def _show(result: "SweepResult") -> None:
    if result.table:
        log.info("\n%s\n", result.table)
        log.info("all of it: %s", result.folder / "overview.md")
    if result.picture:
        log.info("pictures to look at: %s", result.picture)
    print_result(result.folder)
    if result.signal is signal.SIGINT:
        raise KeyboardInterrupt


AT_ONCE = {"at_once": Option(str, "Most members of a program; auto (default): all who fit.")}

SWEEP_OPTIONS = {
    "engine": Option(str, "Who trains: local (here), ray (a Ray cluster; extra ray) or slurm (array jobs by sbatch)."),
    **AT_ONCE,
    "gpus": Option(float, "Of ray and slurm: GPUs of each job."),
    "cpus": Option(int, "Of ray and slurm: CPU cores of each job."),
    "retries": Option(int, "Of ray: how often a job is tried anew that its machine took down; 3 by default."),
    "submit": Option(str, 'Of slurm: more options for sbatch, such as "--partition=gpu --time=8:00:00".'),
    "dry_run": Option(bool, "Only say what would be trained, and how."),
}

SWEEP = Verb(
    name="sweep",
    usage=f"{USAGE} KEY=VALUE,VALUE ... [--engine local|ray|slurm] [--dry_run]",
    help="train all combinations of some settings, with one table and one picture; the same command goes on",
    settings=Config,
    options={**SWEEP_OPTIONS, **PROCESSES},
    place_words=config_files,
    take=take,
    run=sweep,
    common={
        "of all members": ("model.path", "data.instance_images", "data.subjects", "data.class_noun", "run_dir"),
        "often varied": (
            *("optimizer.learning_rate", "train.steps", "train.seed", "prior.weight", "adapter.rank"),
            *("prior.class_prompt", "prior.class_images_prompt", "text_encoder.stop"),
        ),
        "varied without training again": ("samples.steps", "samples.guidance_scale", "samples.sampler"),
        "what members are compared by, if it is set": ("validation.holdout",),
    },
    examples=(
        (
            "rates x steps (2 x 2), each drawn twice",
            "sweep sd15_lora optimizer.learning_rate=1e-4,3e-4 train.steps=600,900 samples.steps=30,50",
        ),
        (
            "three seeds of each subject of a folder, on a cluster",
            "sweep sd15_lora data.subjects=dreambooth train.seed=0,1,2 --engine slurm --gpus 1",
        ),
    ),
)
