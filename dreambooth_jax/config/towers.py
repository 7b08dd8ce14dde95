# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Networks that pictures are measured with. Without weights of one, what needs it is not measured."""

from dataclasses import dataclass

from dreambooth_jax.config.setting import Settings, setting


@dataclass(frozen=True, kw_only=True)
class TowersConfig(Settings):
    """Where their weights are."""

    dino: str | None = setting(None, path=True, nonempty=True)
    """DINO or DINOv2: hub id or folder (transformers, timm), or a file of torch.hub's; facebook/dino-vits16."""
    clip: str | None = setting(None, path=True, nonempty=True)
    """CLIP with its tokenizer: hub id or folder, such as openai/clip-vit-base-patch32."""
    lpips: str | None = setting(None, path=True, nonempty=True)
    """LPIPS: a file of torch.save(lpips.LPIPS(net="alex").state_dict(), FILE)."""
    judge: str | None = setting(None, path=True, nonempty=True)
    """Folder of a judge of drawings; by default the one of the embedded model, for its own pictures."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(TowersConfig):
    """Measures of a run's sample pictures while it trains."""

    every: int = setting(0, at_least=0)
    """Steps between two measurements of the pictures of samples.prompts and samples.class_prompts; there is one before
    the first step, and one at the end. 0 measures nothing."""
