# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How single files of each kind of model are laid out, as data.

    Stable Diffusion 1   model.diffusion_model.  first_stage_model.  cond_stage_model.transformer.
    Stable Diffusion 2   model.diffusion_model.  first_stage_model.  cond_stage_model.model.
    Stable Diffusion XL  model.diffusion_model.  first_stage_model.  conditioner.embedders.0.transformer. and .1.model.
    its refiner          model.diffusion_model.  first_stage_model.  conditioner.embedders.0.model.

A layout is a value and a line in ``LAYOUTS``: it says where each network of a family lies, by whose names, and what no
shape tells of it. Reading takes the one whose prefixes a file has, writing the first of the family that fits.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from dreambooth_jax.errors import InputError
from dreambooth_jax.models.families import SD, SDXL, SDXL_REFINER, Family
from dreambooth_jax.weights.ldm import Place, clip_place, open_clip_place, unet_place, vae_place
from dreambooth_jax.weights.ldm_configs import (
    Shapes,
    clip_config,
    open_clip_config,
    open_clip_projection_config,
    unet_config,
    vae_config,
)
from dreambooth_jax.weights.tokenizer_files import CLIP, OPEN_CLIP, TextTower

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
EMA_PREFIX = "model_ema."
CLIP_PREFIX = "cond_stage_model.transformer."


class Dialect(NamedTuple):
    """How the original code calls the parameters of a kind of network.

    Attributes:
        place: where each is.
        config: shapes by these names -> what of its ``config.json`` they tell.
        tower: of a text encoder, what its tokenizer must fit.
    """

    place: Place
    config: Callable[[Shapes], dict[str, Any]]
    tower: TextTower | None = None

    def fits(self, config: Mapping[str, Any]) -> bool:
        """Whether a network of this configuration is called so, as far as its tower tells."""
        return self.tower is None or config.get("hidden_act", "quick_gelu") == self.tower.hidden_act


class Home(NamedTuple):
    """Where a network lies in a file.

    Attributes:
        prefix: what the names of its arrays begin with.
        dialect: how they go on.
        settings: what no shape tells of its ``config.json``.
        positions: name of a buffer that counts the positions of a text.
        scalars: numbers that are no parameters of ours -> the key of ``config.json`` that keeps each, and what it is
            where that is missing.
    """

    prefix: str
    dialect: Dialect
    settings: Mapping[str, Any] = {}
    positions: str = ""
    scalars: Mapping[str, tuple[str, float]] = {}

    def config(self, shapes: Shapes) -> dict[str, Any]:
        """What its ``config.json`` would say.

        Args:
            shapes: of all arrays of the file.

        Raises:
            InputError: naming the array that is missing.
        """
        mine = {name.removeprefix(self.prefix): shape for name, shape in shapes.items() if name.startswith(self.prefix)}
        try:
            return {**self.dialect.config(mine), **self.settings}
        except InputError as error:
            raise InputError(f"{error} behind {self.prefix}") from error


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """Of single files of a kind of model.

    Attributes:
        name: of the kind.
        family: of the model.
        homes: component -> where it lies.
        scheduler: what no file says of its ``scheduler_config.json``.
        sample_size: side of the latents that models are trained on which predict noise; and velocity.
        norm_tells: whether a norm tells what a file predicts that does not say so; in others nobody expects velocity.
    """

    name: str
    family: Family
    homes: Mapping[str, Home]
    scheduler: Mapping[str, Any]
    sample_size: tuple[int, int] = (64, 64)
    norm_tells: bool = False

    def is_of(self, names: Iterable[str]) -> bool:
        """Whether a file with these names has this layout."""
        names = tuple(names)
        return takes_sizes(names) == self.takes_sizes and not self.lacking(names)

    @property
    def takes_sizes(self) -> bool:
        """Whether its denoisers are told of more than the text."""
        return "addition_embed_type" in self.homes["unet"].settings

    def lacking(self, names: Iterable[str]) -> list[str]:
        """Components of which a file with these names has nothing."""
        names = tuple(names)
        return [what for what, home in self.homes.items() if not any(name.startswith(home.prefix) for name in names)]

    def fits(self, configs: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether its dialects are those of networks of these configurations."""
        return all(home.dialect.fits(configs[component]) for component, home in self.homes.items())


UNET = Dialect(unet_place, unet_config)
VAE = Dialect(vae_place, vae_config)
CLIP_TEXT = Dialect(clip_place, clip_config, CLIP)
OPEN_CLIP_TEXT = Dialect(open_clip_place, open_clip_config, OPEN_CLIP)
OPEN_CLIP_TEXT_WITH_PROJECTION = Dialect(open_clip_place, open_clip_projection_config, OPEN_CLIP)

_NOISE: Mapping[str, Any] = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
_PNDM = {"_class_name": "PNDMScheduler", "skip_prk_steps": True, **_NOISE}
_DDIM = {"_class_name": "DDIMScheduler", **_NOISE}
_EULER = {
    **{"_class_name": "EulerDiscreteScheduler", **_NOISE},
    **{"interpolation_type": "linear", "timestep_spacing": "leading", "use_karras_sigmas": False},
}
_NETWORKS = {
    "unet": Home(UNET_PREFIX, UNET),
    "vae": Home(VAE_PREFIX, VAE, {"scaling_factor": 0.18215}),
}
_XL_NETWORKS = {
    "unet": Home(UNET_PREFIX, UNET, {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}),
    "vae": Home(VAE_PREFIX, VAE, {"scaling_factor": 0.13025, "force_upcast": True}),
}

_POSITIONS = "text_model.embeddings.position_ids"
_LOGIT_SCALE = {"logit_scale": ("logit_scale_init_value", math.log(100))}
"""Of OpenCLIP's similarities, which is trained up to this bound."""

SD1 = Layout(
    name="Stable Diffusion 1",
    family=SD,
    homes={**_NETWORKS, "text_encoder": Home(CLIP_PREFIX, CLIP_TEXT)},
    scheduler=_PNDM,
    sample_size=(64, 96),
)
SD2 = Layout(
    name="Stable Diffusion 2",
    family=SD,
    homes={**_NETWORKS, "text_encoder": Home("cond_stage_model.model.", OPEN_CLIP_TEXT)},
    scheduler=_DDIM,
    sample_size=(64, 96),
    norm_tells=True,
)
SD_TURBO = replace(SD2, homes={**SD2.homes, "text_encoder": Home("conditioner.embedders.0.model.", OPEN_CLIP_TEXT)})
"""Stable Diffusion 2 in the prefixes of XL's code."""
XL = Layout(
    name="Stable Diffusion XL",
    family=SDXL,
    homes={
        **_XL_NETWORKS,
        "text_encoder": Home("conditioner.embedders.0.transformer.", CLIP_TEXT, positions=_POSITIONS),
        "text_encoder_2": Home("conditioner.embedders.1.model.", OPEN_CLIP_TEXT_WITH_PROJECTION, scalars=_LOGIT_SCALE),
    },
    scheduler=_EULER,
    sample_size=(128, 128),
)
XL_REFINER = Layout(
    name="refiner of Stable Diffusion XL",
    family=SDXL_REFINER,
    homes={
        **_XL_NETWORKS,
        "text_encoder_2": Home("conditioner.embedders.0.model.", OPEN_CLIP_TEXT_WITH_PROJECTION, scalars=_LOGIT_SCALE),
    },
    scheduler=_EULER,
    sample_size=(128, 128),
)

LAYOUTS = (SD1, SD2, SD_TURBO, XL, XL_REFINER)
"""Those of one family in the order in which they are taken to write."""


def takes_sizes(names: Iterable[str]) -> bool:
    """Whether a file with these names has a denoiser that is told of more than the text."""
    return any(name.startswith(f"{UNET_PREFIX}label_emb.") for name in names)


def layout_of(family: Family, configs: Mapping[str, Mapping[str, Any]]) -> Layout:
    """To write a model in: that of its family whose dialects are those of its networks, or else the first.

    Raises:
        InputError: if there are no single files of its family.
    """
    of_family = [layout for layout in LAYOUTS if layout.family is family]
    if not of_family:
        known = ", ".join(dict.fromkeys(layout.name for layout in LAYOUTS))
        raise InputError(f"format = ldm is for {known}, this is a {family.pipeline_class}: write a folder")
    return next((layout for layout in of_family if layout.fits(configs)), of_family[0])
