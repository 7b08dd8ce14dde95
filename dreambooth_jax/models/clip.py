# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""CLIP whole (Radford et al. 2021): texts and pictures as vectors of one space. Named as ``CLIPModel`` of transformers.

Its ``config.json`` has those of both encoders inside: ``text_config`` and ``vision_config``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from dreambooth_jax.models.clip_configs import HIGHEST, CLIPTextConfig
from dreambooth_jax.models.clip_text import CLIPTextTransformer
from dreambooth_jax.models.clip_vision import CLIPVisionConfig, CLIPVisionTransformer
from dreambooth_jax.models.layers import wide
from dreambooth_jax.models.model_config import Choices, ModelConfig
from dreambooth_jax.target import CPU, Arch

C = TypeVar("C", bound="CLIPModelConfig")


@dataclass(frozen=True, kw_only=True)
class CLIPModelConfig(ModelConfig):
    """The shapes of both encoders, and of what they have in common."""

    text: CLIPTextConfig = field(default_factory=CLIPTextConfig)
    vision: CLIPVisionConfig = field(default_factory=CLIPVisionConfig)
    projection_dim: int = 512
    end: int = 49407
    """The token at the end of a text, whose state stands for the text."""

    CHOICES: ClassVar[Choices] = {"model_type": ("clip",)}

    @classmethod
    def _from_json(cls: type[C], raw: Mapping[str, Any]) -> C:
        text, vision = (
            {**(raw.get(f"{name}_config") or {}), **(raw.get(f"{name}_config_dict") or {})}
            for name in ("text", "vision")
        )
        end = text.get("eos_token_id", cls.end)
        shared = cls._value("projection_dim", raw.get("projection_dim", cls.projection_dim), cls.projection_dim)
        cls._check_choices("model_type", raw.get("model_type", "clip"))
        return cls(
            text=CLIPTextConfig.from_json(text, file="text_config"),
            vision=CLIPVisionConfig.from_json(vision, file="vision_config"),
            projection_dim=shared,
            end=end,
        )


class CLIPModel(nn.Module):
    """Both encoders and their projections.

    Attributes:
        config: the network's shape.
        dtype: what to compute in.
        arch: what to compute on.
    """

    config: CLIPModelConfig
    dtype: DTypeLike = jnp.float32
    arch: Arch = CPU

    def setup(self) -> None:
        config = self.config
        self.text_model = CLIPTextTransformer(config.text, dtype=self.dtype, arch=self.arch)
        self.vision_model = CLIPVisionTransformer(config.vision, dtype=self.dtype, arch=self.arch)
        self.text_projection = nn.Dense(config.projection_dim, use_bias=False, dtype=self.dtype)
        self.visual_projection = nn.Dense(config.projection_dim, use_bias=False, dtype=self.dtype)

    def __call__(self, pixels: Float[Array, "b h w 3"], ids: Int[Array, "c t"]) -> tuple[Array, Array]:
        """Both kinds of vectors."""
        return self.images(pixels), self.texts(ids)

    def images(self, pixels: Float[Array, "b h w 3"]) -> Float[Array, "b p"]:
        """Pictures, normalised and of the encoder's size, as vectors in at least float32; their length is left."""
        return self.visual_projection(self.vision_model(pixels)).astype(wide(self.dtype))

    def texts(self, ids: Int[Array, "b t"]) -> Float[Array, "b p"]:
        """Texts, each with a token at its end, as vectors in at least float32; their length is left."""
        states = self.text_model(ids)
        # the first one, where what fills up a text is the same token
        at_end = ids if self.config.end == HIGHEST else (ids == self.config.end).astype(jnp.int32)
        ends = jnp.argmax(at_end, axis=1)
        pooled = jnp.take_along_axis(states, ends[:, None, None], axis=1)[:, 0]
        return self.text_projection(pooled).astype(wide(self.dtype))
