# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Does a run fit, here or on devices that are not here? Asked before it starts, and before any weights are read.

``train`` asks what a run holds before it reads weights, and what a step needs before its first one; ``plan`` asks all
and tells.
"""

from dreambooth_jax.config import Config
from dreambooth_jax.errors import InputError
from dreambooth_jax.members.grouping import shares_a_program
from dreambooth_jax.planning.members_result import MembersPlan
from dreambooth_jax.planning.result import Plan


def plan(config: Config, *, target: str | None = None) -> Plan:
    """Compile all that a run compiles, without weights or photos, and add up what it needs.

    Args:
        config: of the run.
        target: devices to compile for, such as ``h100:8`` or ``v5e:2x2``, which need not be there; by default those
            that are here.

    Raises:
        InputError: for wrong settings, a model whose configuration cannot be had, or an unknown target.
    """
    if not isinstance(config, Config):
        raise InputError(f"{config!r} is no Config: load_config makes one, of a file or a name and KEY=VALUE")
    if target is not None and not isinstance(target, str):
        raise InputError(f"target={target!r}: give a name, such as 'h100:8'")
    if target is not None:
        from dreambooth_jax.planning.elsewhere import plan_elsewhere

        found = plan_elsewhere(config, target)
        assert isinstance(found, Plan)
        return found
    from dreambooth_jax.planning.build import build
    from dreambooth_jax.planning.measure import compile_only
    from dreambooth_jax.target import Target

    return build(config, Target.here(), compiler=compile_only)


def plan_members(config: Config, members: int, *, target: str | None = None) -> MembersPlan:
    """How many members one program trains on each device: steps of one and of two members are compiled, and of as many
    as are then to be trained at once.

    Args:
        config: of each member.
        members: how many are to be trained.
        target: as in :func:`plan`.

    Raises:
        InputError: as :func:`plan`; for a method that trains one subject at a time.
    """
    if members < 1:
        raise InputError(f"members is {members}, but must be at least 1")
    if not shares_a_program(config):
        raise InputError(f"adapter.kind={config.adapter.kind} trains one subject at a time: plan without --members")
    if target is not None:
        from dreambooth_jax.planning.elsewhere import plan_elsewhere

        found = plan_elsewhere(config, target, members=members)
        assert isinstance(found, MembersPlan)
        return found
    from dreambooth_jax.planning.measure import compile_only
    from dreambooth_jax.planning.members import build_members
    from dreambooth_jax.target import Target

    return build_members(config, Target.here(), members, compiler=compile_only)
