# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The networks' shapes, by the names and defaults of diffusers' ``config.json`` files."""

from dataclasses import dataclass
from typing import ClassVar, TypeAlias, TypeVar

from dreambooth_jax.models.model_config import Choices, ModelConfig, PerBlock

T = TypeVar("T")
Depth: TypeAlias = int | tuple[int, ...]
"""How many transformer blocks each layer of a block has: one number for all, or one for each."""


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
    mid_block_type: str | None = "UNetMidBlock2DCrossAttn"
    """UNetMidBlock2D is one resnet; None is no middle at all."""
    transformer_layers_per_block: PerBlock[Depth] = 1
    """Of the middle block those of the last one's first layer."""
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
        "mid_block_type": (None, "UNetMidBlock2D", "UNetMidBlock2DCrossAttn"),
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
    DEPTHS: ClassVar[tuple[str, ...]] = ("layers_per_block", "transformer_layers_per_block")
    PER_LAYER: ClassVar[tuple[str, ...]] = ("transformer_layers_per_block",)
    REAL = ("freq_shift", "norm_eps")

    def __post_init__(self) -> None:
        self._check_blocks(len(self.block_out_channels))
        for level in range(len(self.block_out_channels)):
            self.depths(level)
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

    def depths(self, level: int) -> tuple[int, ...]:
        """Transformer blocks of each layer on the way down, where the block has transformers.

        Raises:
            InputError: if there are too few for its layers.
        """
        count = self.per_block(self.layers_per_block)[level]
        return self._of_layers("transformer_layers_per_block", self._depth_of_blocks[level], count)

    @property
    def middle_depth(self) -> int:
        """Transformer blocks of the middle."""
        return self._of_layers("transformer_layers_per_block", self._depth_of_blocks[-1], 1)[0]

    @property
    def middle_layers(self) -> int:
        """Transformers of the middle, which has a resnet more; below 0 where there is none."""
        return {"UNetMidBlock2DCrossAttn": 1, "UNetMidBlock2D": 0}.get(self.mid_block_type or "", -1)

    @property
    def _depth_of_blocks(self) -> tuple[Depth, ...]:
        return self._of_blocks(self.transformer_layers_per_block)

    def _of_blocks(self, depth: PerBlock[Depth]) -> tuple[Depth, ...]:
        return depth if isinstance(depth, tuple) else (depth,) * len(self.block_out_channels)

    def _of_layers(self, key: str, depth: Depth, count: int) -> tuple[int, ...]:
        """The first ``count`` of a block."""
        if isinstance(depth, int):
            return (depth,) * count
        if len(depth) < count:
            raise self._unsupported(key, depth, f"one value for each of a block's {count} layers")
        return depth[:count]

    @property
    def takes_sizes(self) -> bool:
        """Whether it is told of ``pooled`` and ``sizes``."""
        return self.addition_embed_type is not None

    def pooled_channels(self, sizes: int) -> int:
        """Width of ``pooled``, of a network that takes so many numbers as sizes."""
        return (self.projection_class_embeddings_input_dim or 0) - sizes * (self.addition_time_embed_dim or 0)

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
    reverse_transformer_layers_per_block: PerBlock[Depth] | None = None
    """Of the up blocks, in their own order; by default those of the down blocks in reverse."""
    num_class_embeds: int | None = None
    """How many labels it has embeddings for, which are added to that of the timestep."""
    time_cond_proj_dim: int | None = None
    """Of a model that is told of guidance instead of asked twice: sinusoids of its scale (arXiv 2310.04378)."""

    CHOICES: ClassVar[Choices] = {
        **UNetEncoderConfig.CHOICES,
        "_class_name": ("UNet2DConditionModel", "FlaxUNet2DConditionModel"),
        "conv_out_kernel": (3,),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    PER_BLOCK = (*UNetEncoderConfig.PER_BLOCK, "up_block_types", "reverse_transformer_layers_per_block")
    DEPTHS = (*UNetEncoderConfig.DEPTHS, "reverse_transformer_layers_per_block")
    PER_LAYER = (*UNetEncoderConfig.PER_LAYER, "reverse_transformer_layers_per_block")

    def __post_init__(self) -> None:
        super().__post_init__()
        for level in range(len(self.block_out_channels)):
            self.up_depths(level)
        if self.time_cond_proj_dim is not None:
            self._check_divides("time_cond_proj_dim", 2, (self.time_cond_proj_dim,))

    def up_depths(self, level: int) -> tuple[int, ...]:
        """Transformer blocks of each layer on the way up to a level, where the block has transformers.

        Raises:
            InputError: if there are too few for its layers, of which there is one more than on the way down.
        """
        key, given = "reverse_transformer_layers_per_block", self.reverse_transformer_layers_per_block
        blocks = self._depth_of_blocks[::-1] if given is None else self._of_blocks(given)
        return self._of_layers(key, blocks[-1 - level], self.per_block(self.layers_per_block)[level] + 1)

    @property
    def takes_guidance(self) -> bool:
        """Whether it is told of the guidance scale, and so asked about one prompt alone."""
        return self.time_cond_proj_dim is not None


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
    force_upcast: bool = True
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
