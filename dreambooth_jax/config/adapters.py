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

    kind: Literal[
        "full",
        "lora",
        "loha",
        "lokr",
        "ia3",
        "oft",
        "svdiff",
        "lidb",
        "rank_relaxed",
        "custom_diffusion",
        "textual_inversion",
        "pivotal",
        "custom_diffusion_words",
    ] = "full"
    """What becomes of a layer. full: all its numbers are trained. lora: the product of two small matrices is added to
    its kernel (a rate of about 1e-4). loha, lokr: an elementwise, or Kronecker product of small ones. ia3: its channels
    are scaled. oft: its outputs are rotated in blocks. svdiff: its singular values are shifted. lidb: lora of rank 1
    within fixed random bases, 100 KB a file. rank_relaxed: lora on a lidb. custom_diffusion: cross-attention alone.
    textual_inversion: a new word is learned, and nothing else changes. pivotal: that first, then lora.
    custom_diffusion_words: custom_diffusion with a new word, as its authors do it."""
    targets: tuple[str, ...] = setting(("auto",), pattern=True, nonempty=True)
    """Layers of the UNet: attn-mlp, attn-mlp-conv, attn-only, cross-attention, cross-attention-kv, ia3, full, or
    patterns of their names; auto is attn-mlp, or what the authors of full, ia3, lidb and custom_diffusion chose."""
    text_encoder_targets: tuple[str, ...] = setting(("auto",), pattern=True, nonempty=True)
    """Layers of the text encoder, if it is trained: auto, attn-mlp, attn-only, ia3, full, or patterns of names."""
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
    dora: Literal["input", "output"] | None = None
    """lora, pivotal: also train lengths of a kernel's inputs (as A1111 and ComfyUI read DoRA), or outputs (PEFT)."""
    dropout: float = setting(0.0, at_least=0, below=1)
    """lora, pivotal: share of the inputs of the small matrices that count nothing in training."""
    factor: int = setting(-1, at_least=-1, hint="-1 is the nearest to a square")
    """lokr: what channels are split by into two factors, as LyCORIS does; -1 splits them nearest to a square."""
    decompose_both: bool = False
    """lokr: the smaller factor is low-rank, too, where the rank is small enough."""
    block_size: int = setting(32, at_least=2, at_most=4096)
    """oft: outputs that are rotated together; less where LyCORIS' rule for factors gives less."""
    constraint: float = setting(0.0, at_least=0)
    """oft: bound of the rotations' generators, times the number of outputs; 0 has none."""
    lidb_down: int = setting(100, at_least=1, at_most=65536)
    """lidb: numbers trained of each kernel on the side of its inputs."""
    lidb_up: int = setting(50, at_least=1, at_most=65536)
    """lidb: numbers trained of each kernel on the side of its outputs."""
    lidb_seed: int = setting(0, at_least=0, below=2**32)
    """lidb: seed of the fixed bases; those who share files need not know it, since it is in them."""
    begin: str | None = setting(None, path=True, nonempty=True)
    """rank_relaxed: file of the lidb that stays as it is, below what is trained."""

    def targets_of(self, network: Literal["unet", "text_encoder"]) -> tuple[str, ...]:
        """The targets, with what ``auto`` stands for."""
        said = self.targets if network == "unet" else self.text_encoder_targets
        usual = AUTO.get(self.kind, {}).get(network, "attn-mlp")
        return tuple(usual if target == "auto" else target for target in said)


AUTO: dict[str, dict[str, str]] = {
    "full": {"unet": "full", "text_encoder": "full"},
    "ia3": {"unet": "ia3", "text_encoder": "ia3"},
    "lidb": {"unet": "attn-only", "text_encoder": "attn-only"},
    "custom_diffusion": {"unet": "cross-attention-kv"},
    "custom_diffusion_words": {"unet": "cross-attention-kv"},
}
"""Kind -> network -> its usual targets, where they are not attn-mlp."""
USUAL_RATES: dict[str, float] = {
    **dict.fromkeys(("lora", "loha", "lokr", "oft", "rank_relaxed", "pivotal"), 1e-4),
    **dict.fromkeys(("ia3", "svdiff", "lidb"), 1e-3),
}
"""Learning rates that kinds are trained with, by their authors or the tools that train them: those where the rates for
whole networks, which are a hundred times lower, hardly change anything."""
_TARGETS = ("targets", "text_encoder_targets")
_RANKS = ("rank", "alpha", "conv_rank", "conv_alpha", "rank_stabilized")
USED: dict[str, tuple[str, ...]] = {
    "full": _TARGETS,
    "lora": (*_TARGETS, *_RANKS, "dora", "dropout"),
    "loha": (*_TARGETS, *_RANKS),
    "lokr": (*_TARGETS, *_RANKS, "factor", "decompose_both"),
    "ia3": _TARGETS,
    "oft": (*_TARGETS, "block_size", "constraint"),
    "svdiff": _TARGETS,
    "lidb": (*_TARGETS, "lidb_down", "lidb_up", "lidb_seed"),
    "rank_relaxed": ("rank", "begin"),
    "custom_diffusion": _TARGETS,
    "custom_diffusion_words": _TARGETS,
    "textual_inversion": (),
    "pivotal": (*_TARGETS, *_RANKS, "dora", "dropout"),
}
"""Settings that each kind has a use for."""


def adapter_problems(adapter: AdapterConfig) -> Iterator[str]:
    """What does not go together, one line each."""
    if adapter.kind == "rank_relaxed" and adapter.begin is None:
        yield "adapter.kind=rank_relaxed goes on from a lidb: give its file as adapter.begin"
    for field in fields(adapter):
        value = getattr(adapter, field.name)
        if field.name not in ("kind", *USED[adapter.kind]) and value != field.default:
            yield (
                f"adapter.{field.name} is {shown(value)}, but adapter.kind={adapter.kind} has no use for it: set "
                "adapter.kind, or leave it out"
            )
