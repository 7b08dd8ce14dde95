# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""One call that trains a group of members: the model is read once, and each step is taken by all of them.

    members -> photos of each -> one model -> class images of each class -> one step for all -> a folder of each

Like a run alone it never turns back, and whatever is done is not done again when the same call is made again.
"""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import jax

from dreambooth_jax import distributed
from dreambooth_jax.checks import check_config
from dreambooth_jax.config import Config
from dreambooth_jax.deterministic import make_deterministic
from dreambooth_jax.errors import InputError
from dreambooth_jax.locks import InUseError, allow_open_files, locked
from dreambooth_jax.members import Member
from dreambooth_jax.planning.admit import check_state
from dreambooth_jax.prepare.begun import begun_here, begun_run
from dreambooth_jax.prepare.fingerprints import Fingerprints
from dreambooth_jax.prepare.multihost import VISIBLE_WITHIN
from dreambooth_jax.runs import RunFolder
from dreambooth_jax.target import Target
from dreambooth_jax.trainer.finish import is_finished
from dreambooth_jax.trainer.members.begun import Begun, all_have_ended, begun_groups
from dreambooth_jax.trainer.members.faults import Faults
from dreambooth_jax.trainer.members.fitting import members_that_fit, out_of_memory
from dreambooth_jax.trainer.members.group import Group, group_of, report_group
from dreambooth_jax.trainer.members.hooks import looking, saving
from dreambooth_jax.trainer.members.one import finish
from dreambooth_jax.trainer.members.outcome import Outcome, left_out, outcome_of
from dreambooth_jax.trainer.members.preparing import prepare_members
from dreambooth_jax.trainer.recording import recording
from dreambooth_jax.training.checkpoint import Checkpoints, complete_steps
from dreambooth_jax.training.interrupt import Interrupt, StopSign
from dreambooth_jax.training.loop import run_phases
from dreambooth_jax.training.member_metrics import MemberRecorder, Stop
from dreambooth_jax.training.metrics import NonFinite, Recorder
from dreambooth_jax.training.parallel import make_mapper
from dreambooth_jax.training.state import TrainState

log = logging.getLogger(__name__)

MemberListener = Callable[[str, int, dict[str, float]], None]
"""``listener(name of the member, step, values)``, for each line of a member's metrics."""


def run_group(
    group: Sequence[Member],
    folder: Path,
    *,
    listeners: Sequence[MemberListener] = (),
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[Outcome, ...]:
    """Train members in one program; the same call again goes on where it stopped.

    Args:
        group: members who share a program (``dreambooth_jax.members.groups``), each with a ``run_dir`` of its own,
            which in the end is a run folder like that of :func:`~dreambooth_jax.train`.
        folder: where the state of all of them is kept until they have ended. Several groups may share it.
        listeners: called with each line of a member's ``metrics.jsonl``, on process 0.
        should_stop: asked between steps, and between class images; once it is true, the step at hand is saved and ends
            the call, as after a signal.

    Returns:
        What came of each, in the order of ``group``.

    Raises:
        InputError: for what is wrong with all of them, such as the model, or if they share no program.
        InUseError: if another process trains all of them. Of one that another trains, settings that cannot be, photos
            that cannot be read, class images of another kind, and losses that are not finite, the outcome tells.
    """
    names = [member.name for member in group]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two members are called {twice[0]}: give each a name of its own")
    if any(member.config.train.deterministic for member in group):
        make_deterministic()
    found, faults = dict[str, Outcome](), Faults()
    with ExitStack() as stack:
        in_use = _locked(group, stack)
        free = [member for member in group if member.name not in in_use]
        interrupt = stack.enter_context(Interrupt(should_stop))
        left, made_from = [], Fingerprints()
        for member, said in zip(free, distributed.said_anywhere([_refused(one.config, made_from) for one in free])):
            with faults.of(member.name):
                if said:
                    raise InputError(said)
                if _is_finished(member.config):
                    found[member.name] = outcome_of(member.config, member.name, interrupt)
                else:
                    left.append(member)
        found |= _run_all(begun_groups(left, folder, faults), interrupt, listeners)
        found |= left_out(free, faults, interrupt) | left_out(group, in_use, interrupt, in_use=True)
    return tuple(found[name] for name in names)


def _locked(group: Sequence[Member], stack: ExitStack) -> dict[str, str]:
    """Keep others out of members' folders. Returns by name who is trained by another already, and what is said of that.

    Raises:
        InUseError: if nobody is left.
    """
    in_use: dict[str, str] = {}
    allow_open_files(len(group))
    for member in group:
        try:
            stack.enter_context(locked(Path(member.config.run_dir)))
        except InUseError as error:
            in_use[member.name] = str(error)
    if group and len(in_use) == len(group):
        raise InUseError(in_use[group[0].name])
    for said in in_use.values():
        log.warning("%s; the others are trained", said)
    return in_use


def _run_all(groups: Sequence[Begun], interrupt: Interrupt, listeners: Sequence[MemberListener]) -> dict[str, Outcome]:
    """Take the steps of groups, one after the other."""
    found: dict[str, Outcome] = {}
    for begun in groups:
        if interrupt.requested_anywhere():
            found |= _as_saved(begun, interrupt)
            continue
        with locked(begun.folder.path, key="folder of groups"):
            try:
                found |= _run(begun, interrupt, listeners)
            except jax.errors.JaxRuntimeError as error:
                said = out_of_memory(error, begun.members[0].config, len(begun.places))
                if not said or not distributed.all_are_here(VISIBLE_WITHIN):
                    raise
                log.warning("%s", said)
                found |= _as_saved(begun, interrupt, stopped=said)
            distributed.barrier("the group is over")  # process 0 still wrote
    return found


def _run_parts(
    begun: Begun, parts: Sequence[Begun], interrupt: Interrupt, listeners: Sequence[MemberListener]
) -> dict[str, Outcome]:
    """Take the steps of parts of a group, in its place."""
    found = _run_all(parts, interrupt, listeners)
    if begun.source or not begun.is_restored:  # else what they have come to lies in it
        _remove(begun.folder)
    return found


def _as_saved(begun: Begun, interrupt: Interrupt, *, stopped: str = "") -> dict[str, Outcome]:
    """What there is of members whose group does not go on."""
    saved = max(complete_steps(begun.folder.checkpoints), default=begun.first_step)
    found = {}
    for one in begun.members:
        is_stopped, steps = one.name in begun.stopped, one.config.train.steps
        step = begun.stopped[one.name].step if is_stopped else min(saved, steps)
        found[one.name] = outcome_of(one.config, one.name, interrupt, step=step, stopped=stopped)
    return found


def _remove(folder: RunFolder) -> None:
    """Process 0 takes a group's folder away."""
    if distributed.is_main():
        shutil.rmtree(folder.path, ignore_errors=True)


def _refused(config: Config, made_from: Fingerprints) -> str:
    """What is wrong with a member's settings or photos, or has changed since its own checkpoint; empty if nothing is.
    It keeps none of the others back."""
    try:
        check_config(config)
        begun = begun_here(RunFolder(Path(config.run_dir)), steps=config.train.steps)
        is_over = begun.first_step == config.train.steps  # who goes on may have class images made again
        pictures = made_from.all_pictures(config, begun) if is_over else made_from.pictures(config)
        if begun.meta is not None:
            begun.check_unchanged(config, made_from.model(config), pictures)
    except InputError as error:
        return str(error)
    return ""


def _is_finished(config: Config) -> bool:
    """Has a member ended, with the settings that it has now?"""
    folder = RunFolder(Path(config.run_dir))
    return is_finished(config, folder, step=begun_run(folder, steps=config.train.steps).first_step)


def _run(begun: Begun, interrupt: Interrupt, listeners: Sequence[MemberListener]) -> dict[str, Outcome]:
    """Take the steps of members that go on together."""
    settings = begun.members[0].config
    configs = {member.name: member.config for member in begun.members}
    mapper = make_mapper(settings.train.parallel, Target.here(), fsdp_devices=settings.train.fsdp_devices)
    faults, check = Faults(), partial(check_state, settings, mapper)
    prepared = prepare_members(begun, interrupt, mapper, faults, before_loading=check)
    if prepared is None:
        log.info("stopped while class images were made; run the same command to go on")
        taken = {name: run.first_step for name, run in begun.runs.items()}
        return {name: outcome_of(one, name, interrupt, step=taken[name]) for name, one in configs.items()}
    if faults:
        del prepared
        found = _run_parts(begun, begun.without(faults), interrupt, listeners)
        return found | left_out(begun.members, faults, interrupt)
    group = group_of(begun, prepared, mapper)
    if (fitting := members_that_fit(group, list(configs.values()), prepared, mapper)) < len(group.names):
        del group, prepared
        return _run_parts(begun, begun.parts(fitting), interrupt, listeners)
    del prepared  # the last one to hold the pretrained weights of what is trained
    keep = settings.checkpoint
    with closing(
        Checkpoints(begun.folder.checkpoints, keep_last=keep.keep_last, keep_every=keep.keep_every)
    ) as checkpoints:
        state = group.first_state(checkpoints)
        report_group(group)
        state, step, stopped = _train(configs, group, state, checkpoints, interrupt, listeners)
        checkpoints.wait()
    for one in group.members:
        if one.number not in stopped and one.last_step <= step:
            try:
                finish(configs[one.name], one, state)
            except NonFinite as error:
                stopped[one.number] = Stop(one.last_step, str(error))
                log.warning("%s is stopped: %s", one.name, error)
    whys = {one.name: stopped[one.number] for one in group.members if one.number in stopped}
    if all(one.name in whys or one.last_step <= step for one in group.members):
        _remove(begun.folder)
        if begun.source and all_have_ended(begun.source[0], but=group.names):
            _remove(begun.source[0])
    else:
        log.info("stopped after step %d, which is saved; run the same command to go on", step)
    return {
        one.name: outcome_of(
            configs[one.name],
            one.name,
            interrupt,
            step=whys[one.name].step if one.name in whys else min(step, one.last_step),
            stopped=whys[one.name].why if one.name in whys else "",
        )
        for one in group.members
    }


def _train(
    configs: Mapping[str, Config],
    group: Group,
    state: TrainState,
    checkpoints: Checkpoints,
    interrupt: Interrupt,
    listeners: Sequence[MemberListener],
) -> tuple[TrainState, int, dict[int, Stop]]:
    """Take the steps that are left, with all that happens after them. Returns who was stopped, too."""
    begun, settings = group.begun, next(iter(configs.values()))
    with ExitStack() as stack:
        recorders: list[Recorder | None] = [None] * len(group.names)
        for one in group.members:
            told = [partial(listener, one.name) for listener in listeners]
            recorders[one.number] = stack.enter_context(
                recording(configs[one.name], one.folder, one.training, [one.quality.observe, *told], show_bar=False)
            )
        recorder = MemberRecorder(
            group.names,
            recorders,
            steps=group.setup.inputs.steps.tolist(),
            first_step=begun.first_step,
            stopped={begun.places.index(name): stop for name, stop in begun.stopped.items()},
        )
        stack.callback(recorder.close)
        stop_sign = StopSign(interrupt.requested)

        def should_stop(step: int) -> bool:
            return stop_sign(step) or not recorder.running(step + 1)

        validate, draw = looking(group.members, recorder)
        save = saving(
            checkpoints,
            group.mapper,
            recorder,
            every=settings.checkpoint.every,
            last=group.last_step,
            should_stop=should_stop,
            meta=partial(group.meta, recorder=recorder),
        )
        for hook in (validate, draw):
            hook(begun.first_step, state)
        state, step = run_phases(
            state,
            first_step=begun.first_step,
            phases=group.setup.phases,
            inputs_for=group.inputs_for,
            mapper=group.mapper,
            root_key=group.setup.inputs.keys,
            recorder=recorder,
            hooks=[validate, save, draw],
            should_stop=should_stop,
        )
        recorder.flush()
        return state, step, recorder.stopped
