# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Everything before the first step of a group: one model, read once, and each member's pictures."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax

from dreambooth_jax import rng
from dreambooth_jax.errors import InputError
from dreambooth_jax.members import Member
from dreambooth_jax.prepare.class_photos import class_folders
from dreambooth_jax.prepare.model import check_fit, read_model
from dreambooth_jax.prepare.multihost import check_hosts
from dreambooth_jax.prepare.prepared import Known, OwnPictures, Prepared, prepare_with, read_own_pictures
from dreambooth_jax.runs import RunFolder
from dreambooth_jax.train_setup import build_train_setup
from dreambooth_jax.trainer.members.begun import Begun
from dreambooth_jax.trainer.members.faults import Faults
from dreambooth_jax.trainer.training import Training
from dreambooth_jax.training.interrupt import Interrupt
from dreambooth_jax.training.parallel import Mapper
from dreambooth_jax.training.parallel.drawing import for_drawing
from dreambooth_jax.trees import Tree


def prepare_members(
    begun: Begun, interrupt: Interrupt, mapper: Mapper, faults: Faults, *, before_loading: Callable[[], None]
) -> list[Prepared] | None:
    """What is there of each member before its first step, but of those at fault. None if a signal broke that off.

    Pictures of one class are made, read and encoded once for all whose settings say the same of them.

    Args:
        begun: the members.
        interrupt: asked between batches.
        mapper: places the model.
        faults: of members; it learns of those that come up.
        before_loading: called before the model's weights are read; refuses the members by raising.
    """
    pictures: dict[str, OwnPictures] = {}
    for member in begun.members:
        with faults.of(member.name):
            classes = dict.fromkeys(class_folders(member.config).values())
            check_hosts(member.config, Path(member.config.run_dir), *classes)
            pictures[member.name] = read_own_pictures(member.config, begun.runs[member.name])
    before_loading()
    pipe = read_model(begun.members[0].config, mapper.target, place=mapper.load)
    whole, known = replace(pipe, params=for_drawing(pipe.params, mapper.target)), Known()
    found = []
    for member in begun.members:
        if member.name in faults:
            continue
        with faults.of(member.name):
            check_fit(pipe, member.config)
            prepared = prepare_with(
                pipe,
                member.config,
                RunFolder(Path(member.config.run_dir)),
                pictures[member.name],
                whole=whole,
                interrupt=interrupt,
                cache=begun.folder.cache,
                known=known,
            )
            if prepared is None:
                return None
            found.append(prepared)
    return found


def set_up_members(
    members: list[Member], prepared: list[Prepared], mapper: Mapper, *, sharers: int
) -> tuple[list[Training], list[Tree]]:
    """(each member's run as if it were alone, what each trains as it is at first). What is frozen is one for all.

    Args:
        members: names and settings.
        prepared: what there is of each.
        mapper: of what is frozen.
        sharers: devices that share a member's rows.

    Raises:
        InputError: if what they keep frozen is not the same.
    """
    trainings: list[Training] = []
    trainables: list[Tree] = []
    shared: Tree = {}
    for member, one in zip(members, prepared):
        setup = build_train_setup(member.config, one.pipe, mapper, sharers=sharers)
        frozen, trainable = setup.adapter.init(rng.root_key(member.config.train.seed), one.pipe.params)
        shared = shared or frozen
        if not _is_same(shared, frozen):
            raise InputError(
                f"{member.name} and {members[0].name} keep other numbers frozen (adapter.kind="
                f"{member.config.adapter.kind}): they cannot be trained by one step; train them apart"
            )
        training = Training(
            setup=setup,
            frozen=trainings[0].frozen if trainings else setup.placed(frozen),
            concepts=one.concepts,
            first_step=one.first_step,
            seed=member.config.train.seed,
        )
        trainings.append(training)
        trainables.append(trainable)
    return trainings, trainables


def _is_same(one: Tree, other: Tree) -> bool:
    """The same arrays, or of others the same numbers."""
    leaves, others = jax.tree.leaves_with_path(one), jax.tree.leaves_with_path(other)
    return [path for path, _ in leaves] == [path for path, _ in others] and all(
        a is b or (a.shape == b.shape and bool((a == b).all())) for (_, a), (_, b) in zip(leaves, others)
    )
