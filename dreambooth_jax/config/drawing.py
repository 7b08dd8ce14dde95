# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How pictures are drawn from pictures: what the verb ``sample`` and the pipeline can be told beyond sampling.

Class images and sample grids are drawn from prompts alone, so none of this is a key of ``prior`` or ``samples``.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from dreambooth_jax.config.sampling import LARGEST_SIDE, SamplingConfig
from dreambooth_jax.config.setting import setting

BEAUTIFUL = 6.0
"""How beautiful a picture is, from 1 to 10, as models are told that know of it (XL's refiner)."""


@dataclass(frozen=True, kw_only=True)
class DrawingConfig(SamplingConfig):
    """All that decides a picture, apart from model, prompt, seed and given pictures."""

    strength: float | None = setting(None, above=0, at_most=1)
    """How much of the image changes, from details to (1) all; by default 0.75, or 1 to outpaint or with models that
    are made to fill in masks."""
    fixed_steps: bool = setting(False)
    """Run as many steps as asked for, whatever the strength; otherwise only its share of them."""
    mask_blur: float = setting(4.0, at_least=0, at_most=512)
    """Pixels: how soft the edge is between what is drawn anew and the given image."""
    mask_padding: int | None = setting(None, at_least=0, at_most=LARGEST_SIDE)
    """Draw the masked part alone, at width x height, and so many pixels around it; by default the whole image."""
    outpaint_left: int = setting(0, at_least=0, at_most=LARGEST_SIDE)
    """Pixels to add to the given image."""
    outpaint_top: int = setting(0, at_least=0, at_most=LARGEST_SIDE)
    """Pixels to add to the given image."""
    outpaint_right: int = setting(0, at_least=0, at_most=LARGEST_SIDE)
    """Pixels to add to the given image."""
    outpaint_bottom: int = setting(0, at_least=0, at_most=LARGEST_SIDE)
    """Pixels to add to the given image."""

    aesthetic_score: float = setting(BEAUTIFUL, at_least=0, at_most=10)
    """What models that know of it (XL's refiner) are told of how beautiful the picture is, from 1 to 10."""
    negative_aesthetic_score: float = setting(2.5, at_least=0, at_most=10)
    """What they are told of how beautiful that is which guidance leans away from."""
    noise_level: int = setting(20, at_least=0, at_most=10_000)
    """Of models that enlarge pictures: how much noise is added to them first; more lets the model invent more."""
    variation_of: int | None = setting(None, at_least=0, below=2**64)
    """Seed of a picture to vary: each picture's own seed says where to, ``variation_strength`` how far."""
    variation_strength: float = setting(0.1, at_least=0, at_most=1)
    """0 is the picture of the seed that is varied, 1 that of the other seed."""
    tiled: bool = setting(False)
    """For large pictures: decode and encode strip by strip, in little memory; the same pictures but for rounding."""
    hires_scale: float = setting(1.0, at_least=1, at_most=8)
    """Draw a second time at so many times the size, from what the first pass drew."""
    hires_by: Literal["latent", "picture"] = "latent"
    """What is enlarged between the passes: the latents, bilinearly, or the picture."""
    hires_strength: float = setting(0.7, above=0, at_most=1)
    """How much the second pass changes."""
    hires_steps: int | None = setting(None, at_least=1, at_most=10_000)
    """Steps of the second pass, of which its strength is run; by default as many as of the first."""
    refiner_start: float = setting(0.8, above=0, below=1)
    """With a refiner: after which share of the model's timesteps it takes over, of the last pass."""

    @classmethod
    def of(cls, sampling: SamplingConfig, **values: Any) -> "DrawingConfig":
        """Settings of sampling, those of drawing that they hold, and some more."""
        held = {field.name: getattr(sampling, field.name) for field in dataclasses.fields(sampling)}
        own = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in held.items() if name in own} | values)

    @property
    def outpaint(self) -> tuple[int, int, int, int]:
        """Pixels to add: left, top, right, bottom."""
        return self.outpaint_left, self.outpaint_top, self.outpaint_right, self.outpaint_bottom

    def metadata(self, *, with_image: bool) -> dict[str, Any]:
        """What pictures say of how they were made: all of sampling, and of the rest what counts.

        Args:
            with_image: whether one was given to start from.
        """
        own = dataclasses.fields(self)[len(dataclasses.fields(SamplingConfig)) :]
        told = {field.name for field in own if getattr(self, field.name) != field.default}
        told |= {"strength"} if with_image else set()
        values = dataclasses.asdict(self)
        return {name: values[name] for name in values if name in told or name not in {field.name for field in own}}
