# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``dreambooth-jax plan``."""

from dreambooth_jax.cli.settings import COMMON, USAGE, begin, config_files
from dreambooth_jax.cli.verb import Call, Option, Verb
from dreambooth_jax.config import Config
from dreambooth_jax.errors import InputError


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
    run=plan,
    common=COMMON,
    examples=(
        ("on the devices of this machine", "plan configs/sd15.yaml data.class_noun=dog"),
        ("on a card that is not here", "plan configs/sd15.yaml data.class_noun=dog --target l4"),
        ("thirty subjects at once", "plan configs/sd15_lora.yaml data.class_noun=dog --members 30 --target h100"),
    ),
)
