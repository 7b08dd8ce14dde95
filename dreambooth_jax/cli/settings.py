# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What ``train``, ``prior`` and ``plan`` share: the settings of a run, from files and words."""

from collections.abc import Sequence

from dreambooth_jax.config import Config
from dreambooth_jax.config.files import SWEEP, read_settings, shipped
from dreambooth_jax.errors import InputError, nearest

USAGE = "[CONFIG ...] [KEY=VALUE ...]"

COMMON = {
    "what to train": (
        *("model.path", "data.instance_images", "data.class_noun", "data.identifier", "data.resolution", "run_dir"),
    ),
    "how": (
        *("train.steps", "optimizer.learning_rate", "text_encoder.stop", "train.batch_size"),
        *("train.remat", "train.parallel"),
    ),
    "class images": ("prior.weight", "prior.num_images", "prior.class_images"),
    "what is kept": ("checkpoint.every", "samples.every", "samples.prompts", "export.dtype"),
}
"""The settings that most runs give, for help pages."""


def config_files(words: Sequence[str]) -> list[str]:
    """Words that are no settings are configuration files, or names of those that ship with the package.

    Raises:
        InputError: for one that is not.
    """
    for word in words:
        if not word.endswith((".yaml", ".yml")) and word not in shipped():
            kinds = f"a setting (KEY=VALUE) nor a file that ends in .yaml nor one of {', '.join(shipped())}"
            raise InputError(f"{word!r} is neither {kinds}{nearest(word, shipped())}")
    return [f"--config={word}" for word in words]


def of_one_run(options: list[str]) -> tuple[list[str], None]:
    """The options as they are, of verbs that make one run.

    Raises:
        InputError: if a file lists a sweep.
    """
    for name in (option.partition("=")[2] for option in options if option.startswith("--config=")):
        if SWEEP in read_settings(name):
            raise InputError(f"{name} lists a sweep, which is many runs: dreambooth-jax sweep {name} trains them")
    return options, None


def begin(config: Config) -> None:
    """What must be set before jax starts."""
    from dreambooth_jax.compilation_cache import keep_compiled
    from dreambooth_jax.deterministic import make_deterministic

    keep_compiled()
    if config.train.deterministic:
        make_deterministic()
