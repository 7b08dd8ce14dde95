# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Which networks a step runs."""

from collections.abc import Sequence

from dreambooth_jax.adapters import TEACHER, Adapter
from dreambooth_jax.pipeline import Pipeline

Groups = tuple[str, ...]


def encoders_of(pipe: Pipeline) -> Groups:
    """Networks that read prompts."""
    return tuple(pipe.components.family.text_encoders)


def networks_in_step(adapter: Adapter, active: Groups, *, encoders: Sequence[str], teaches: bool = False) -> Groups:
    """Networks that a step runs which trains some groups. The work of the others is in the batch: of the autoencoder,
    and of the text encoders unless one of them is trained. A teacher is one more."""
    changed = {network for group in active for network in adapter.networks(group)}
    run = ("unet",) if changed.isdisjoint(encoders) else (*encoders, "unet")
    return (*run, TEACHER) if teaches else run
