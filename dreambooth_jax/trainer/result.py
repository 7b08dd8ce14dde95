# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What came of a run."""

from dataclasses import dataclass
from pathlib import Path
from signal import Signals

from dreambooth_jax.runs import RunFolder
from dreambooth_jax.trainer.finish import exported_files


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What :func:`~dreambooth_jax.train` returns.

    Attributes:
        folder: of the run.
        step: steps that have been taken and saved, by this call and those before.
        finished: were all steps taken, and the model or adapter written?
        model: the diffusers folder; None before the run is finished, and where it trained an adapter.
        adapter: the adapter's file; None before the run is finished, and where it trained whole networks.
        words: files of the new words that it learned.
        picture: the grid of pictures to look at; None where no samples were asked for.
        signal: that ended this call, if one did.
    """

    folder: Path
    step: int
    finished: bool
    model: Path | None
    adapter: Path | None = None
    picture: Path | None
    signal: Signals | None = None
    words: tuple[Path, ...] = ()


def result_of(folder: RunFolder, *, step: int, finished: bool, stopped_by: Signals | None = None) -> RunResult:
    """What there is in a run's folder."""
    files = exported_files(folder) if finished else []
    grids = [folder.before_after, *sorted((folder.path / "samples").glob("step_*.png"), reverse=True)]
    return RunResult(
        folder=folder.path,
        step=step,
        finished=finished,
        model=folder.model if folder.model in files else None,
        adapter=folder.adapter if folder.adapter in files else None,
        picture=next((grid for grid in grids if grid.exists()), None),
        signal=stopped_by,
        words=tuple(file for file in files if file not in (folder.model, folder.adapter)),
    )
