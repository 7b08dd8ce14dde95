# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``dreambooth-jax prior``."""

from dreambooth_jax.cli.messages import print_result
from dreambooth_jax.cli.processes import PROCESSES, join_processes
from dreambooth_jax.cli.settings import USAGE, begin, config_files, of_one_run
from dreambooth_jax.cli.verb import Call, Verb
from dreambooth_jax.config import Config


def prior(call: Call) -> None:
    """Make the class images of a run."""
    begin(call.settings)
    join_processes(call.options)
    from dreambooth_jax.prepare.class_photos import make_class_images

    print_result(make_class_images(call.settings))


PRIOR = Verb(
    name="prior",
    usage=USAGE,
    help="only make the class images, which train finds later",
    settings=Config,
    options=PROCESSES,
    place_words=config_files,
    take=of_one_run,
    run=prior,
    common={
        "what to make": ("model.path", "data.class_noun", "data.resolution"),
        "class images": (
            *("prior.class_prompt", "prior.class_images_prompt", "prior.num_images", "prior.class_images"),
            *("prior.steps", "prior.guidance_scale", "prior.negative_prompt", "prior.batch_size", "prior.seed"),
        ),
        "where": ("run_dir",),
    },
    examples=(
        (
            "two hundred dogs, in a folder that several runs can use",
            "prior configs/sd15.yaml data.class_noun=dog prior.class_images=dogs",
        ),
    ),
)
