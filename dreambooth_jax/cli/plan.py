# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``dreambooth-jax plan``."""

from collections.abc import Hashable
from functools import partial
from typing import TYPE_CHECKING

from dreambooth_jax.cli.settings import COMMON, USAGE, begin, config_files
from dreambooth_jax.cli.sweep import planned, take
from dreambooth_jax.cli.verb import Call, Option, Verb
from dreambooth_jax.config import Config
from dreambooth_jax.errors import InputError

if TYPE_CHECKING:
    from dreambooth_jax.members import Member

SHOWN = 8
"""Names of members."""


def plan(call: Call) -> None:
    """Compile a run without weights, and tell what it needs.

    Raises:
        InputError: if it does not fit.
    """
    begin(call.settings)
    devices, target = call.options["devices"], call.options["target"]
    if devices is not None:
        import jax

        if target is not None:
            raise InputError(f"--devices {devices} pretends CPUs: leave it out, or --target {target}")
        if devices < 1:
            raise InputError(f"--devices is {devices}, but must be at least 1")
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", devices)
    from dreambooth_jax import planning

    if call.taken or call.settings.data.subjects:
        _plan_many(call)
        return
    if (members := call.options["members"]) is not None:
        together = planning.plan_members(call.settings, members, target=target)
        print(together)
        if not together.fits:
            raise InputError(f"{together.verdict}: take train.remat=blocks, a smaller rank, or a larger device")
        return
    found = planning.plan(call.settings, target=target)
    print(found)
    if not found.fits:
        raise InputError(f"this run {found.verdict}: change what is listed above")


def _plan_many(call: Call) -> None:
    """Plan each program of a sweep, or of many subjects, and tell how many members each takes at once.

    Raises:
        InputError: if one does not fit.
    """
    from dreambooth_jax import planning
    from dreambooth_jax.members.grouping import groups, program_of, shares_a_program

    if call.options["members"] is not None:
        raise InputError(f"--members {call.options['members']} is of one subject: leave it out, members are counted")
    _, members = planned(call, list(call.taken), within="members")
    programs: dict[Hashable, list[Member]] = {}
    for group in groups(members):
        programs.setdefault(program_of(group[0].config), []).extend(group)
    too_large, target = [], call.options["target"]
    for number, some in enumerate(programs.values()):
        config, more = some[0].config, " ..." if len(some) > SHOWN else ""
        print(f"program {number}, of {len(some)}: {', '.join(one.name for one in some[:SHOWN])}{more}")
        together = shares_a_program(config)
        found = (
            planning.plan_members(config, len(some), target=target)
            if together
            else planning.plan(config, target=target)
        )
        print(found, end="\n\n")
        too_large += [] if found.fits else [f"program {number}: {found.verdict}"]
    if too_large:
        raise InputError(f"{'; '.join(too_large)}: take train.remat=blocks, a smaller rank, or a larger device")


PLAN = Verb(
    name="plan",
    usage=f"{USAGE} [--target NAME]",
    help="what a run needs of memory and work, without weights or photos",
    settings=Config,
    options={
        "target": Option(
            str,
            "Compile for devices that are not here: h100:8, h100:2x8 (hosts x cards), v5e:2x2; extras plan-cuda, "
            "plan-tpu.",
        ),
        "devices": Option(int, "Pretend so many CPU devices."),
        "members": Option(int, "How many subjects of so many one program trains at once."),
    },
    place_words=config_files,
    take=partial(take, texts=False),
    run=plan,
    common=COMMON,
    examples=(
        ("on the devices of this machine", "plan configs/sd15.yaml data.class_noun=dog"),
        ("on a card that is not here", "plan configs/sd15.yaml data.class_noun=dog --target l4"),
        (
            "all subjects of a folder, two ranks",
            "plan sd15_lora data.subjects=dreambooth adapter.rank=8,16 --target h100",
        ),
    ),
)
