# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Settings of what is trained."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

from dreambooth_jax.config.setting import Settings, setting, shown


@dataclass(frozen=True, kw_only=True)
class AdapterConfig(Settings):
    """What is trained: the networks themselves, or a few numbers beside them. The text encoder is, too, in the stretch
    that text_encoder.stop gives it."""

    kind: Literal["full", "lora"] = "full"
    """full trains the networks; lora adds the product of two small matrices to each kernel (a rate of about 1e-4)."""
    targets: tuple[str, ...] = setting(("attn-mlp",), pattern=True, nonempty=True)
    """Layers of the UNet: attn-mlp, attn-mlp-conv, attn-only, cross-attention, full, or patterns of their names."""
    text_encoder_targets: tuple[str, ...] = setting(("attn-mlp",), pattern=True, nonempty=True)
    """Layers of the text encoder, if it is trained: attn-mlp, attn-only, full, or patterns of their names."""
    rank: int = setting(16, at_least=1, at_most=4096)
    """Columns of the small matrices."""
    alpha: float | None = setting(None, above=0)
    """The change is multiplied by alpha / rank; by default alpha is the rank, so that it counts as it is."""
    conv_rank: int | None = setting(None, at_least=1, at_most=4096)
    """Rank in convolutions larger than 1x1; by default rank."""
    conv_alpha: float | None = setting(None, above=0)
    """alpha of convolutions larger than 1x1; by default in proportion to their rank."""
    rank_stabilized: bool = False
    """Divide alpha by the root of the rank (arXiv 2312.03732), so that high ranks learn as fast as low ones."""


_TARGETS = ("targets", "text_encoder_targets")
USED: dict[str, tuple[str, ...]] = {
    "full": (),
    "lora": (*_TARGETS, "rank", "alpha", "conv_rank", "conv_alpha", "rank_stabilized"),
}
"""Settings that each kind has a use for."""


def adapter_problems(adapter: AdapterConfig) -> Iterator[str]:
    """What does not go together, one line each."""
    for field in fields(adapter):
        value = getattr(adapter, field.name)
        if field.name not in ("kind", *USED[adapter.kind]) and value != field.default:
            yield (
                f"adapter.{field.name} is {shown(value)}, but adapter.kind={adapter.kind} has no use for it: set "
                "adapter.kind, or leave it out"
            )
