# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The denoiser ε(x_t, t, text): a UNet over latents that looks at text states (Rombach et al. 2022, § 3.3)."""

from typing import Any

import jax
from jaxtyping import Array, Float, Real

from dreambooth_jax.models.attention import Context
from dreambooth_jax.models.condition import Condition, Residuals
from dreambooth_jax.models.configs import UNetConfig
from dreambooth_jax.models.layers import GroupNorm, conv, wide
from dreambooth_jax.models.unet_blocks import UpBlock
from dreambooth_jax.models.unet_encoder import UNetEncoder

_KNOWN = ("states", "residuals", "images")


def _parts(condition: Array | Condition) -> tuple[Array, Residuals, Any]:
    if not isinstance(condition, Condition):
        return condition, Residuals(), None
    unused = [name for name, part in condition._asdict().items() if name not in _KNOWN and part is not None]
    if unused:
        raise ValueError(f"this network looks at text states alone, not at {', '.join(unused)}")
    return condition.states, condition.residuals or Residuals(), condition.images


class UNet2DConditionModel(UNetEncoder):
    """The denoiser of Stable Diffusion 1 and 2. Its attributes are those of :class:`UNetEncoder`."""

    config: UNetConfig

    def setup(self) -> None:
        super().setup()
        config = self.config
        levels = range(len(config.block_out_channels))
        self.up_blocks = [UpBlock(config, level, **self._how) for level in reversed(levels)]
        self.conv_norm_out = GroupNorm(config.norm_num_groups, config.norm_eps, dtype=self.dtype)
        self.conv_out = conv(config.out_channels, dtype=self.dtype)

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
            condition: text states, as they are or as a condition, which may hold residuals and images besides.
        """
        states, residuals, images = _parts(condition)
        residuals = residuals.astype(self.dtype)
        time, states = self._embed(timesteps), states.astype(self.dtype)
        images = jax.tree.map(lambda leaf: leaf.astype(self.dtype), images)
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
