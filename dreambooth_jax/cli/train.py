# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``dreambooth-jax train``."""

import logging
import signal

from dreambooth_jax.cli.messages import print_result
from dreambooth_jax.cli.processes import PROCESSES, join_processes
from dreambooth_jax.cli.settings import COMMON, USAGE, begin, config_files, of_one_run
from dreambooth_jax.cli.sweep import AT_ONCE, run_all
from dreambooth_jax.cli.verb import Call, Verb
from dreambooth_jax.config import Config
from dreambooth_jax.errors import InputError

log = logging.getLogger(__name__)


def train(call: Call) -> None:
    """Run, or resume, a training; of many subjects, one for each.

    Raises:
        InputError: if it is said of one subject how many are trained at once.
        KeyboardInterrupt: after Ctrl-C, when all is saved: what was to come after this command must not.
    """
    if call.settings.data.subjects:
        run_all(call, [], within="subjects")
        return
    if (said := call.options["at_once"]) is not None:
        raise InputError(f"--at_once {said} is of many subjects: set data.subjects, or leave it out")
    begin(call.settings)
    join_processes({name: call.options[name] for name in PROCESSES})
    from dreambooth_jax import trainer

    result = trainer.train(call.settings)
    print_result(result.folder)
    if result.picture:
        log.info("pictures to look at: %s", result.picture)
    if result.signal is signal.SIGINT:
        raise KeyboardInterrupt


TRAIN = Verb(
    name="train",
    usage=USAGE,
    help="personalise a model; the same command again goes on where it stopped",
    settings=Config,
    options={**AT_ONCE, **PROCESSES},
    place_words=config_files,
    take=of_one_run,
    run=train,
    common=COMMON,
    examples=(
        ("the model that ships with the package, on a CPU", "train configs/quickstart.yaml"),
        (
            "Stable Diffusion 1.5, from photos in a folder",
            "train configs/sd15.yaml data.instance_images=photos data.class_noun=dog run_dir=runs/dog",
        ),
        ("many subjects, each in a folder of a folder", "train configs/sd15_lora.yaml data.subjects=dreambooth"),
    ),
)
