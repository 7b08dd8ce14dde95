# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The run that a folder's newest checkpoint is of: where it goes on, and whether it is still the same run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dreambooth_jax.config import Config, to_dict
from dreambooth_jax.runs import RunFolder, known_model, newest_meta
from dreambooth_jax.training.checkpoint import complete_steps, read_meta
from dreambooth_jax.training.resume import check_not_beyond, check_same_run
from dreambooth_jax.weights.fingerprint import Identity


@dataclass(frozen=True, kw_only=True)
class BegunRun:
    """What the newest checkpoint says of its run.

    Attributes:
        meta: of the checkpoint; None where there is none, and any run may begin.
    """

    meta: Mapping[str, Any] | None

    @property
    def first_step(self) -> int:
        """Steps that have been taken."""
        return self.meta["step"] if self.meta else 0

    @property
    def class_images(self) -> str:
        """Digest of the class images that it has begun with."""
        return self.meta["fingerprints"].get("prior", "") if self.meta else ""

    def check_unchanged(self, config: Config, model: Identity, fingerprints: Mapping[str, str]) -> None:
        """Raise InputError unless this is the same run as far as is known.

        Args:
            config: of the run now.
            model: which one the pretrained model is.
            fingerprints: of those pictures that have been read.
        """
        if self.meta:
            known = known_model(self.meta, model, variant=config.model.variant)
            check_same_run(self.meta, config=to_dict(config), fingerprints={**fingerprints, "model": known})


def begun_run(folder: RunFolder, *, steps: int) -> BegunRun:
    """Look into a run's folder. All processes do.

    Raises:
        InputError: if more than so many steps were taken there.
    """
    return _within(newest_meta(folder), folder, steps=steps)


def begun_here(folder: RunFolder, *, steps: int) -> BegunRun:
    """What this process sees of a run in a folder: like :func:`begun_run`, without the others."""
    kept = complete_steps(folder.checkpoints)
    return _within(read_meta(folder.checkpoints, kept[-1]) if kept else None, folder, steps=steps)


def _within(meta: Mapping[str, Any] | None, folder: RunFolder, *, steps: int) -> BegunRun:
    if meta:
        check_not_beyond(meta, steps=steps, kept=complete_steps(folder.checkpoints))
    return BegunRun(meta=meta)
