# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""One member among others: its run as if it were alone, and its part of what all have together."""

import logging
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding
from jaxtyping import Array, Int

from dreambooth_jax import distributed
from dreambooth_jax.config import Config, to_dict
from dreambooth_jax.members import Member
from dreambooth_jax.prepare.begun import BegunRun
from dreambooth_jax.prepare.prepared import Prepared
from dreambooth_jax.prepare.told import told_of
from dreambooth_jax.runs import RunFolder
from dreambooth_jax.trainer.finish import export, is_finished, step_to_export
from dreambooth_jax.trainer.grids import Grids, grids_of
from dreambooth_jax.trainer.quality import Quality, quality_of
from dreambooth_jax.trainer.scoring import OpenTowers
from dreambooth_jax.trainer.training import Training
from dreambooth_jax.training.checkpoint import Checkpoints, complete_steps
from dreambooth_jax.training.finite import check_state_finite
from dreambooth_jax.training.state import TrainState

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class One:
    """A member that is being trained.

    Attributes:
        number: of its place.
        name: of the member.
        folder: its own.
        training: its run, were it alone.
        grids: of its pictures.
        quality: how good its own is, and which step is the best.
        meta: what checkpoints say of it, but how far it has come.
        whole: on all devices of the group, where its state is taken out of that of all.
    """

    number: int
    name: str
    folder: RunFolder
    training: Training
    grids: Grids
    quality: Quality
    meta: Mapping[str, Any]
    whole: NamedSharding

    @property
    def last_step(self) -> int:
        """Of its run."""
        return self.training.setup.last_step

    def state(self, state: TrainState) -> TrainState:
        """Its own, of that of all members."""
        return self.training.setup.mapper.place(_own(state, self.number, self.whole))

    def save(self, state: TrainState, *, step: int) -> None:
        """Keep its own state as a run does that is alone; of those before, the best one if it is to be kept."""
        if distributed.gather(step in complete_steps(self.folder.checkpoints))[0]:
            return
        mapper = self.training.setup.mapper
        with closing(Checkpoints(self.folder.checkpoints, best=self.quality.best_step)) as checkpoints:
            average = mapper.logical(self.training.averaged(state))
            meta = {**self.meta, **self.quality.meta}
            checkpoints.save(mapper.logical(state), step=step, meta=meta, averaged=average)


@partial(jax.jit, static_argnums=2)
def _own(state: TrainState, number: int | Int[Array, ""], whole: NamedSharding) -> TrainState:
    return jax.lax.with_sharding_constraint(jax.tree.map(lambda leaf: leaf[number], state), whole)


def one_of(
    member: Member,
    prepared: Prepared,
    training: Training,
    *,
    number: int,
    begun: BegunRun,
    whole: NamedSharding,
    towers: OpenTowers,
) -> One:
    """A member that is about to take steps.

    Args:
        member: its name and settings.
        prepared: what there is of it before the first step.
        training: its run.
        number: of its place.
        begun: how far it has come.
        whole: on all devices of the group.
        towers: opens networks to measure with, those of all members once.
    """
    folder = RunFolder(Path(member.config.run_dir))
    grids = grids_of(member.config, folder)
    return One(
        number=number,
        name=member.name,
        folder=folder,
        training=training,
        grids=grids,
        quality=quality_of(
            member.config,
            training,
            grids,
            meta=begun.meta or {},
            metrics=folder.path / "metrics.jsonl",
            towers=towers,
            of=member.name,
        ),
        meta={
            "config": to_dict(member.config),
            "fingerprints": prepared.fingerprints,
            "pictures": told_of(prepared.concepts),
        },
        whole=whole,
    )


def finish(config: Config, one: One, state: TrainState) -> None:
    """Leave in a member's folder what a run leaves that has taken all its steps.

    Args:
        config: of the member.
        one: the member.
        state: of all members.

    Raises:
        NonFinite: if its state is not finite.
    """
    own, step = one.state(state), one.last_step
    check_state_finite(own, step)
    one.save(own, step=step)
    if one.grids.are_due(step) and not one.grids.are_there(step):  # killed between checkpoint and grid
        one.grids.draw(step, one.training, own)
    if not is_finished(config, one.folder, step=step):
        chosen = step_to_export(config.export, best=one.quality.best.step, last=step)
        if chosen != step:
            with closing(Checkpoints(one.folder.checkpoints)) as checkpoints:
                own = one.training.state_at(checkpoints, chosen)
        export(config, one.folder, one.training, own, step=step, of=chosen)
