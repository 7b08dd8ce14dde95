# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The shapes of CLIP's encoders, read from transformers' ``config.json`` files."""

from dataclasses import dataclass
from typing import ClassVar

from dreambooth_jax.models.model_config import Choices, ModelConfig

HIGHEST = 2
"""The ``eos_token_id`` of files from before 2023, which is wrong: the end of a text is its highest id."""


@dataclass(frozen=True, kw_only=True)
class CLIPConfig(ModelConfig):
    """What CLIP's encoders have in common."""

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    CHOICES: ClassVar[Choices] = {"hidden_act": ("quick_gelu", "gelu")}
    IRRELEVANT: ClassVar[tuple[str, ...]] = (
        *("architectures", "dtype", "torch_dtype", "transformers_version", "return_dict", "id2label", "label2id"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "initializer_factor", "initializer_range", "projection_dim"),
        "logit_scale_init_value",  # of similarities
        # settings of text generation, which some versions of transformers wrote into every file
        *("max_length", "num_beams", "num_beam_groups", "num_return_sequences", "temperature", "top_k", "top_p"),
        *("typical_p", "length_penalty", "repetition_penalty"),
    )

    DEPTHS = ("num_hidden_layers",)
    REAL = ("layer_norm_eps",)

    def __post_init__(self) -> None:
        self._check_divides("num_attention_heads", self.num_attention_heads, (self.hidden_size,))


@dataclass(frozen=True, kw_only=True)
class CLIPTextConfig(CLIPConfig):
    """The text encoder. Stable Diffusion 2 uses the last layer but one: its file simply counts one layer less."""

    vocab_size: int = 49408
    max_position_embeddings: int = 77

    CHOICES: ClassVar[Choices] = {**CLIPConfig.CHOICES, "model_type": ("clip_text_model",)}


@dataclass(frozen=True, kw_only=True)
class CLIPTextProjectionConfig(CLIPTextConfig):
    """The text encoder with a projection of what stands for the whole text."""

    projection_dim: int = 512
    eos_token_id: int = 49407
    """The token at the end of a text, whose state stands for the text; or :data:`HIGHEST`."""
