# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The networks that pictures are measured with, opened from where settings say."""

from dataclasses import replace
from pathlib import Path

from dreambooth_jax.config.scores import EMBEDDED
from dreambooth_jax.config.towers import TowersConfig
from dreambooth_jax.evaluation.judge import SHIPPED, load
from dreambooth_jax.evaluation.scores import Towers
from dreambooth_jax.evaluation.towers import open_clip, open_dino, open_lpips
from dreambooth_jax.progress import announced
from dreambooth_jax.target import Target


def open_towers(places: TowersConfig, target: Target) -> Towers:
    """Those that there are weights for. The judge is of drawings: it is asked where they are.

    Args:
        places: where weights are.
        target: they are put on all devices of this process.

    Raises:
        InputError: if one is not what it should be.
    """
    with announced("reading the towers", usually="seconds"):
        return Towers(
            dino=open_dino(places.dino, target) if places.dino else None,
            clip=open_clip(places.clip, target) if places.clip else None,
            lpips=open_lpips(places.lpips, target) if places.lpips else None,
            judge=load(Path(places.judge)) if places.judge else None,
        )


def for_model(towers: Towers, model: str) -> Towers:
    """With the judge that ships, where pictures are those of the embedded model and no other judge was named."""
    return replace(towers, judge=load(SHIPPED)) if model == EMBEDDED and not towers.judge else towers
