# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``dreambooth-jax doctor``."""

from dreambooth_jax.cli.sample import sampling_of
from dreambooth_jax.cli.verb import Call, Verb
from dreambooth_jax.cli.words import one_each
from dreambooth_jax.options import DoctorOptions


def doctor(call: Call) -> None:
    """Tell what is wrong with a run, why one thinks so, and what to change first.

    Raises:
        InputError: if there is no run, or something of it cannot be read.
    """
    options: DoctorOptions = call.settings
    from dreambooth_jax.compilation_cache import keep_compiled
    from dreambooth_jax.doctor.examine import examine
    from dreambooth_jax.doctor.told import as_json, as_text

    keep_compiled()
    examined = list(examine(options, sampling_of=lambda model: sampling_of(options, call.told, model)))
    print(as_json(examined) if options.json else as_text(examined))


DOCTOR = Verb(
    name="doctor",
    usage="RUN [KEY=VALUE ...]",
    help="what is wrong with a run, by its photos, words, settings and pictures, and what to change first",
    settings=DoctorOptions,
    place_words=one_each("run"),
    run=doctor,
    common={
        "with which networks": ("evaluate.dino", "evaluate.clip", "evaluate.judge"),
        "of what": ("photos", "prompts", "num_images", "num_class_images", "draw"),
        "how": ("steps", "guidance_scale", "sampler", "step", "out", "json"),
    },
    examples=(
        ("the quick start", "doctor runs/quickstart"),
        (
            "a run of Stable Diffusion; DINO looks at its pictures, CLIP reads its prompts",
            "doctor runs/dog evaluate.dino=facebook/dino-vits16 evaluate.clip=openai/clip-vit-base-patch32",
        ),
        ("photos, words and settings alone, before or while it trains", "doctor runs/dog draw=false"),
    ),
)
