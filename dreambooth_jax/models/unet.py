# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The denoiser ε(x_t, t, text): a UNet over latents that looks at text states (Rombach et al. 2022, § 3.3)."""

from collections.abc import Sequence

import jax
from flax import linen as nn
from jaxtyping import Array, Float, Real

from dreambooth_jax.models.attention import Context
from dreambooth_jax.models.condition import Condition, Residuals
from dreambooth_jax.models.configs import UNetConfig
from dreambooth_jax.models.layers import GroupNorm, conv, timestep_embedding, wide
from dreambooth_jax.models.unet_blocks import UpBlock
from dreambooth_jax.models.unet_encoder import UNetEncoder


def _checked(condition: Array | Condition, known: Sequence[str]) -> Condition:
    """A condition that holds nothing that the network would not look at."""
    if not isinstance(condition, Condition):
        return Condition(condition)
    unused = [name for name, part in condition._asdict().items() if name not in known and part is not None]
    if unused:
        raise ValueError(f"this network looks at text states alone, not at {', '.join(unused)}")
    return condition


GUIDANCE_UNIT = 1000
"""The guidance scale is embedded as a timestep is, and so many times as large."""


class UNet2DConditionModel(UNetEncoder):
    """The denoiser of Stable Diffusion. Its attributes are those of :class:`UNetEncoder`."""

    config: UNetConfig

    def setup(self) -> None:
        super().setup()
        config = self.config
        levels = range(len(config.block_out_channels))
        self.up_blocks = [UpBlock(config, level, **self._how) for level in reversed(levels)]
        self.conv_norm_out = GroupNorm(config.norm_num_groups, config.norm_eps, dtype=self.dtype)
        self.conv_out = conv(config.out_channels, dtype=self.dtype)
        if config.num_class_embeds is not None:
            features = 4 * config.block_out_channels[0]
            self.class_embedding = nn.Embed(config.num_class_embeds, features, dtype=self.dtype)

    def __call__(
        self,
        latents: Float[Array, "b h w c"],
        timesteps: Real[Array, "b"],
        condition: Float[Array, "b s e"] | Condition,
    ) -> Float[Array, "b h w out"]:
        """The prediction that the weights were trained for (noise, or velocity), in at least float32.

        Args:
            latents: noisy latents, scaled. Any height and width will do.
            timesteps: of each example, in [0, T − 1]; may be fractional.
            condition: text states, as they are or as a condition, which may hold residuals and images besides, and
                labels, or pooled and sizes, or guidance, where the network has embeddings for them.
        """
        labelled = self.config.num_class_embeds is not None
        known = ["states", "residuals", "images", *["labels"] * labelled]
        known += ["pooled", "sizes"] * self.config.takes_sizes + ["guidance"] * self.config.takes_guidance
        condition = _checked(condition, known)
        if labelled and condition.labels is None:
            raise ValueError("this network needs a condition with labels")
        residuals = (condition.residuals or Residuals()).astype(self.dtype)
        labels = self.class_embedding(condition.labels) if labelled else None
        time = self._embed(timesteps, condition, labels, self._of_guidance(condition))
        states = condition.states.astype(self.dtype)
        images = jax.tree.map(lambda leaf: leaf.astype(self.dtype), condition.images)
        text = states if images is None else Context(states, images)
        x, skips = self._encode(self.conv_in(latents.astype(self.dtype)), time, text, residuals.blocks)
        if residuals.skips is not None:
            skips = [skip + more for skip, more in zip(skips, residuals.skips, strict=True)]
        if residuals.middle is not None:
            x = x + residuals.middle
        for up in self.up_blocks:
            count = len(up.resnets)
            mine, skips = skips[-count:], skips[:-count]
            _, height, width, _ = (skips or mine)[-1].shape
            x = up(x, mine, time, text, (height, width))
        x = self.conv_out(jax.nn.silu(self.conv_norm_out(x)))
        return x.astype(wide(self.dtype))

    def _of_guidance(self, condition: Condition) -> Float[Array, "b d"] | None:
        """Sinusoids of the guidance scale; a network that is not told of it leaves them out."""
        if condition.guidance is None or self.config.time_cond_proj_dim is None:
            return None
        told, size = GUIDANCE_UNIT * condition.guidance, self.config.time_cond_proj_dim
        return timestep_embedding(told, size, flip_sin_to_cos=False, freq_shift=1.0, dtype=self.dtype)
