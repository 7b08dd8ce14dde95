# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The two models of ``sample --refiner``: what is said of files counts for that of them which has such files."""

import logging
from typing import TYPE_CHECKING, Any

from dreambooth_jax.options import SampleOptions
from dreambooth_jax.paths import at_home

if TYPE_CHECKING:
    from dreambooth_jax.pipeline import Pipeline

log = logging.getLogger(__name__)


def told_of_model(options: SampleOptions) -> dict[str, Any]:
    """What the first model is told: of the tokenizer, nothing where the refiner alone is a single file."""
    from dreambooth_jax.weights.single_file import is_single_file

    told = options.told()
    if options.refiner and is_single_file(at_home(options.refiner)) and not is_single_file(at_home(options.source)):
        told["tokenizer"] = None
    return told


def open_refiner(options: SampleOptions, pipe: "Pipeline") -> "Pipeline":
    """The second model, which computes as the first one does, and is kept in that dtype.

    Raises:
        InputError: if it cannot be read.
    """
    from dreambooth_jax.pipeline import load_pretrained
    from dreambooth_jax.weights.folders import NoVariantError
    from dreambooth_jax.weights.single_file import is_single_file

    assert options.refiner
    dtype = pipe.unet.dtype
    how: dict[str, Any] = {"dtype": dtype, "target": pipe.target, "param_dtype": dtype}
    if is_single_file(at_home(options.refiner)):
        return load_pretrained(options.refiner, tokenizer=options.tokenizer, **how)
    try:
        return load_pretrained(options.refiner, variant=options.variant, **how)
    except NoVariantError:
        log.info("%s has no weights of variant %s: its plain ones are taken", options.refiner, options.variant)
        return load_pretrained(options.refiner, **how)
