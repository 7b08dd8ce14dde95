# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What came of a member."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dreambooth_jax.config import Config
from dreambooth_jax.members import Member
from dreambooth_jax.runs import RunFolder
from dreambooth_jax.trainer.finish import is_finished
from dreambooth_jax.trainer.result import RunResult, result_of
from dreambooth_jax.training.checkpoint import complete_steps
from dreambooth_jax.training.interrupt import Interrupt


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What :func:`~dreambooth_jax.trainer.members.run_group` says of a member.

    Attributes:
        name: of the member.
        result: what is in its folder, as if it had been trained alone.
        stopped: why it was stopped before its end, or not begun, such as "loss is nan at step 3"; empty where it was
            not.
        in_use: was it left out because another process trains it? Then nothing may be written for it.
    """

    name: str
    result: RunResult
    stopped: str = ""
    in_use: bool = False


def outcome_of(
    config: Config, name: str, interrupt: Interrupt, *, step: int | None = None, stopped: str = ""
) -> Outcome:
    """What there is of a member.

    Args:
        config: of the member.
        name: of the member.
        interrupt: of the call.
        step: steps that it has taken and that are saved; by default those of its own checkpoints.
        stopped: why it was stopped.
    """
    folder = RunFolder(Path(config.run_dir))
    taken = max(complete_steps(folder.checkpoints), default=0) if step is None else step
    finished = not stopped and taken == config.train.steps and is_finished(config, folder, step=taken)
    signal = None if finished or stopped else interrupt.signal
    return Outcome(
        name=name, result=result_of(folder, step=taken, finished=finished, stopped_by=signal), stopped=stopped
    )


def left_out(
    members: Sequence[Member], faults: Mapping[str, str], interrupt: Interrupt, *, in_use: bool = False
) -> dict[str, Outcome]:
    """What there is of members at fault, or in use."""
    found = {}
    for one in members:
        if one.name in faults:
            outcome = outcome_of(one.config, one.name, interrupt, stopped=faults[one.name])
            found[one.name] = replace(outcome, in_use=in_use)
    return found
