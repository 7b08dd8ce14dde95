# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The networks' shapes, read from the ``config.json`` files of diffusers and transformers.

Field names and defaults are those of the files, which leave out what has its default. Every key of a file is one of
four things: a field here; a choice of which we have only some values; irrelevant to the network; unknown. An unknown
key that holds nothing (null, false, 0, empty) is harmless, any other asks for something we don't have.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeAlias, TypeVar

from dreambooth_jax.errors import InputError

_LARGEST = 2**20
"""Of sizes: far above any network's, and below what overflows shapes."""
_DEEPEST = 1000
"""Of layers."""

T = TypeVar("T")
C = TypeVar("C", bound="ModelConfig")  # not typing.Self, which run-time checkers refuse outside classes of theirs
PerBlock: TypeAlias = T | tuple[T, ...]
Choices: TypeAlias = Mapping[str, Sequence[Any]]


class ModelConfig:
    """What all have in common: reading a file, and refusing what it asks for in vain."""

    CHOICES: ClassVar[Choices]
    """Keys of which only these values are supported. Those that are no fields have one meaning, whatever the value."""
    IRRELEVANT: ClassVar[tuple[str, ...]]
    """Keys that the network's output does not depend on."""
    PER_BLOCK: ClassVar[tuple[str, ...]] = ()
    """Fields that may hold a tuple: one value for each of ``block_out_channels``."""
    DEPTHS: ClassVar[tuple[str, ...]] = ()
    """Fields that count layers, each of which is built one by one."""
    REAL: ClassVar[tuple[str, ...]] = ()
    """Fields that hold real numbers, which files may write as whole ones."""

    @classmethod
    def from_json(cls: type[C], raw: Mapping[str, Any], *, file: str = "config.json") -> C:
        """From the content of a ``config.json``.

        Args:
            raw: the content.
            file: how to call it in errors.

        Raises:
            InputError: naming the first key whose value is malformed or asks for something we don't have.
        """
        try:
            return cls._from_json(raw)
        except InputError as error:
            raise InputError(f"{file}: {error}") from error

    @classmethod
    def _from_json(cls: type[C], raw: Mapping[str, Any]) -> C:
        defaults = {field.name: field.default for field in fields(cls)}  # type: ignore[arg-type]
        for key, value in raw.items():
            if key in cls.CHOICES:
                cls._check_choices(key, value)
            elif key not in defaults and key not in cls.IRRELEVANT and not key.startswith("_") and value:
                raise cls._unsupported(key, value, "its absence")
        return cls(**{key: cls._value(key, raw[key], default) for key, default in defaults.items() if key in raw})

    @classmethod
    def _value(cls, key: str, value: Any, default: Any) -> Any:
        """The value of a field in its own type."""
        value = tuple(value) if isinstance(value, list) else value
        if default is None and key in cls.CHOICES:
            return value
        wanted, listed = isinstance(default, tuple), isinstance(value, tuple)
        if not _alike(value, default) or (listed != wanted and not (listed and key in cls.PER_BLOCK)):
            raise cls._unsupported(key, value, f"something like {default!r}")
        for one in value if isinstance(value, tuple) else (value,):
            cls._check_number(key, one)
        return float(value) if isinstance(default, float) else value

    @classmethod
    def _check_number(cls, key: str, value: Any) -> None:
        """Counts and sizes are at least 1; real numbers are finite, and not negative."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return
        if isinstance(value, float) or key in cls.REAL:
            if not (math.isfinite(value) and value >= 0):
                raise cls._unsupported(key, value, "a finite number that is not negative")
        elif not 1 <= value <= (_DEEPEST if key in cls.DEPTHS else _LARGEST):
            raise cls._unsupported(key, value, f"from 1 to {_DEEPEST if key in cls.DEPTHS else _LARGEST}")

    @classmethod
    def _unsupported(cls, key: str, value: Any, wanted: str) -> InputError:
        return InputError(f"{key} = {value!r} is not supported, only {wanted}")

    @classmethod
    def _check_choices(cls, key: str, value: Any) -> None:
        known = cls.CHOICES[key]
        items = value if isinstance(value, list | tuple) else (value,)
        if any(item not in known for item in items):
            raise cls._unsupported(key, value, " or ".join(repr(choice) for choice in known))

    def _check_blocks(self, count: int) -> None:
        for key in self.PER_BLOCK:
            value = getattr(self, key)
            if isinstance(value, tuple) and len(value) != count:
                raise self._unsupported(key, value, f"one value for each of the {count} block_out_channels")

    def _check_divides(self, key: str, parts: int, channels: Sequence[int]) -> None:
        if parts < 1 or any(size % parts for size in channels):
            raise self._unsupported(key, parts, f"a divisor of {', '.join(map(str, channels))} channels")


def _alike(value: Any, default: Any) -> bool:
    """Whether a value, or each of a tuple's, is of the default's kind; a default of None stands for an integer."""
    if isinstance(value, tuple):
        return bool(value) and all(_alike(item, default) for item in value)
    kind = default[0] if isinstance(default, tuple) else default
    if kind is None and value is None:
        return True
    if isinstance(value, bool) or isinstance(kind, bool | str):
        return isinstance(value, type(kind))
    return isinstance(value, int | float if isinstance(kind, float) else int)


@dataclass(frozen=True, kw_only=True)
class UNetEncoderConfig(ModelConfig):
    """The way down and the middle of a UNet, of which a ControlNet is a copy. Values per block are in the order of
    ``down_block_types``."""

    in_channels: int = 4
    flip_sin_to_cos: bool = True
    freq_shift: float = 0.0
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    only_cross_attention: PerBlock[bool] = False
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: PerBlock[int] = 2
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int = 1280
    transformer_layers_per_block: PerBlock[int] = 1
    attention_head_dim: PerBlock[int] = 8
    """The number of heads, not their size: the key's historical meaning."""
    num_attention_heads: PerBlock[int] | None = None
    """Takes the place of ``attention_head_dim`` where it is given."""
    use_linear_projection: bool = False
    addition_embed_type: str | None = None
    """What is added to the embedding of the timestep: text_time is one of a condition's ``pooled`` and ``sizes``."""
    addition_time_embed_dim: int | None = None
    """Of text_time: sinusoids of each of the sizes."""
    projection_class_embeddings_input_dim: int | None = None
    """Of text_time: width of ``pooled`` and of all sinusoids together."""

    CHOICES: ClassVar[Choices] = {
        "act_fn": ("silu", "swish"),  # two names of one function
        "addition_embed_type": (None, "text_time"),
        "attention_type": ("default",),
        "conv_in_kernel": (3,),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "downsample_padding": (1,),
        "mid_block_scale_factor": (1,),
        "mid_block_type": ("UNetMidBlock2DCrossAttn",),
        "resnet_out_scale_factor": (1,),
        "resnet_time_scale_shift": ("default",),
        "time_embedding_type": ("positional",),
    }
    IRRELEVANT: ClassVar[tuple[str, ...]] = (
        "addition_embed_type_num_heads",  # says something only beside addition_embed_type
        "mid_block_only_cross_attention",  # the one middle block that we have does not read it
        "split_head_dim",  # the legacy Flax UNet's ways to compute the same
        "use_memory_efficient_attention",
        "upcast_attention",  # logits and softmax are never below float32 here
    )
    PER_BLOCK: ClassVar[tuple[str, ...]] = (
        *("block_out_channels", "down_block_types", "layers_per_block", "only_cross_attention"),
        *("attention_head_dim", "num_attention_heads", "transformer_layers_per_block"),
    )
    DEPTHS = ("layers_per_block", "transformer_layers_per_block")
    REAL = ("freq_shift", "norm_eps")

    def __post_init__(self) -> None:
        self._check_blocks(len(self.block_out_channels))
        if not self.freq_shift < self.block_out_channels[0] // 2:
            raise self._unsupported("freq_shift", self.freq_shift, "less than half of the first block_out_channels")
        self._check_divides("norm_num_groups", self.norm_num_groups, self.block_out_channels)
        for heads, channels in zip(self.heads, self.block_out_channels, strict=True):
            self._check_divides("attention_head_dim", heads, (channels,))
        widths = self.addition_time_embed_dim, self.projection_class_embeddings_input_dim
        if self.addition_embed_type and None in widths:
            wanted = "beside addition_time_embed_dim and projection_class_embeddings_input_dim"
            raise self._unsupported("addition_embed_type", self.addition_embed_type, wanted)
        if self.addition_time_embed_dim is not None:
            self._check_divides("addition_time_embed_dim", 2, (self.addition_time_embed_dim,))

    @property
    def heads(self) -> tuple[int, ...]:
        """Number of attention heads of each block."""
        return self.per_block(self.num_attention_heads or self.attention_head_dim)

    @property
    def skip_channels(self) -> tuple[int, ...]:
        """Of each skip connection."""
        channels, last = [self.block_out_channels[0]], len(self.block_out_channels) - 1
        for level, count in enumerate(self.per_block(self.layers_per_block)):
            channels += [self.block_out_channels[level]] * (count + (level < last))
        return tuple(channels)

    def per_block(self, value: PerBlock[T]) -> tuple[T, ...]:
        """A value for each block: itself, or repeated where it is one for all."""
        return value if isinstance(value, tuple) else (value,) * len(self.block_out_channels)


@dataclass(frozen=True, kw_only=True)
class UNetConfig(UNetEncoderConfig):
    """The denoiser. Up blocks have values per block in reverse."""

    sample_size: int | None = None
    """Side of the latents that the network was trained on; it takes others."""
    out_channels: int = 4
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    num_class_embeds: int | None = None
    """How many labels it has embeddings for, which are added to that of the timestep."""

    CHOICES: ClassVar[Choices] = {
        **UNetEncoderConfig.CHOICES,
        "_class_name": ("UNet2DConditionModel", "FlaxUNet2DConditionModel"),
        "conv_out_kernel": (3,),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    PER_BLOCK = (*UNetEncoderConfig.PER_BLOCK, "up_block_types")


@dataclass(frozen=True, kw_only=True)
class VAEConfig(ModelConfig):
    """The autoencoder between pictures and latents."""

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    """The latents that the UNet sees are the raw ones times this."""
    force_upcast: bool = False
    """Its features leave float16's range. bfloat16 has float32's, at less precision, and is computed in as asked."""

    CHOICES: ClassVar[Choices] = {
        "_class_name": ("AutoencoderKL", "FlaxAutoencoderKL"),
        "act_fn": ("silu", "swish"),
        "down_block_types": ("DownEncoderBlock2D",),
        "mid_block_add_attention": (True,),
        "up_block_types": ("UpDecoderBlock2D",),
        "use_post_quant_conv": (True,),
        "use_quant_conv": (True,),
    }
    IRRELEVANT = ("sample_size",)  # a note on its training
    PER_BLOCK = ("block_out_channels", "down_block_types", "up_block_types")
    DEPTHS = ("layers_per_block",)
    REAL = ("scaling_factor",)

    def __post_init__(self) -> None:
        if not self.scaling_factor > 0:
            raise self._unsupported("scaling_factor", self.scaling_factor, "a number above 0")
        self._check_blocks(len(self.block_out_channels))
        self._check_divides("norm_num_groups", self.norm_num_groups, self.block_out_channels)

    @property
    def downscale(self) -> int:
        """Pixels per latent, along one side."""
        return 2 ** (len(self.block_out_channels) - 1)
