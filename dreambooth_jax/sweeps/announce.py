# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a sweep is going to do, before it does it."""

from collections.abc import Sequence

from dreambooth_jax.config import to_dict
from dreambooth_jax.members import Grouped, Member, shares_a_program, why_alone
from dreambooth_jax.training.resume import flat

SHOWN = 20
"""Groups, and names of members."""


def announcement(members: Sequence[Member], left: Grouped, *, grid: str = "") -> str:
    """Lines that say how many trainings there are, what shares a program, and what does not, and why.

    Args:
        members: all.
        left: those to be done, in groups.
        grid: settings of sampling, with which none is trained again.
    """
    count = sum(map(len, left))
    done = f", of which {len(members) - count} are done" if count < len(members) else ""
    steps = sum(member.config.train.steps for group in left for member in group)
    apart = [group for group in left if not shares_a_program(group[0].config)]
    lines = [
        f"{_counted(len(members), 'training')}{done}; {steps} steps in {_counted(len(left), 'group')} are to be done"
    ]
    for number, group in enumerate(left[:SHOWN]):
        if group in apart:
            continue
        lines.append(f"  group {number}: {_counted(len(group), 'member')} of one program: {_names(group)}")
    for why in dict.fromkeys(why_alone(group[0].config) for group in apart):
        these = [member for group in apart for member in group if why_alone(member.config) == why]
        lines.append(f"  one by one, since {why}: {_names(these)}")
    if len(left) > SHOWN and len(apart) < len(left):
        lines.append(f"  and {len(left) - SHOWN} groups more")
    if differing := differing_keys(left):
        lines.append(f"  groups differ in {', '.join(differing)}")
    if grid:
        lines.append(f"  of each, pictures with all combinations of {grid} are drawn at the end, without more training")
    return "\n".join(lines)


def differing_keys(left: Grouped) -> list[str]:
    """Settings that keep groups of one kind of program apart: those that their first members differ in, and no two
    members of one group do."""
    shared = [group for group in left if shares_a_program(group[0].config)]
    if len(shared) < 2:
        return []
    configs = [flat(to_dict(group[0].config)) for group in shared]
    within = {key for group in shared for key in _varied([flat(to_dict(one.config)) for one in group])}
    return [key for key in _varied(configs) if key not in within and key not in ("run_dir", "prior.class_images")]


def _varied(configs: Sequence[dict]) -> list[str]:
    return [key for key in configs[0] if any(one.get(key) != configs[0][key] for one in configs[1:])]


def _names(members: Sequence[Member]) -> str:
    more = f" and {len(members) - SHOWN} more" if len(members) > SHOWN else ""
    return ", ".join(member.name for member in members[:SHOWN]) + more


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"
