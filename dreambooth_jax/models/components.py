# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Kinds of networks as data: their modules and configurations, how their files are named, what they take."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from dreambooth_jax.models.clip_configs import CLIPTextConfig, CLIPTextProjectionConfig
from dreambooth_jax.models.clip_text import CLIPTextModel
from dreambooth_jax.models.clip_text_pooled import CLIPTextModelBeforeLast, CLIPTextModelWithProjection
from dreambooth_jax.models.clip_vision import CLIPVisionConfig, CLIPVisionModelWithProjection
from dreambooth_jax.models.condition import Condition
from dreambooth_jax.models.configs import UNetConfig, VAEConfig
from dreambooth_jax.models.controlnet import ControlNetConfig, ControlNetModel
from dreambooth_jax.models.model_config import ModelConfig
from dreambooth_jax.models.t2i_adapter import T2IAdapter, T2IAdapterConfig
from dreambooth_jax.models.taesd import AutoencoderTiny, TAESDConfig, TinyDecoder, TinyEncoder
from dreambooth_jax.models.unet import UNet2DConditionModel
from dreambooth_jax.models.vae import AutoencoderKL


class Stems(NamedTuple):
    """Names of a network's weight files, without ``.safetensors`` and ``.msgpack``."""

    torch: str
    flax: str


@dataclass(frozen=True, kw_only=True)
class KeyRules:
    """In what names of a network's parameters differ between files.

    Attributes:
        prefix: first segment of all names, which some exporters leave out.
        legacy: a path's segment as we call it -> as legacy files do. A trailing underscore stands for any number.
        ignored: keys of buffers that hold no weights.
    """

    prefix: str = ""
    legacy: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class ComponentKind:
    """A kind of network that is stored in a folder of its own, with a ``config.json``.

    Attributes:
        config_cls: reads the ``config.json``.
        module_cls: the Flax module; made of a ``config_cls`` and those of dtype, remat and arch that it has. A denoiser
            has these and ``scan``, which training sets.
        library_class: (library, class) in PyTorch, as ``model_index.json`` says it.
        stems: of its weight files.
        dummy_inputs: config -> shapes of inputs, small ones, that the module can be initialised with.
        key_rules: of its parameters' names.
        beside: files of its folder that are worth downloading, too.
    """

    config_cls: type[ModelConfig]
    module_cls: Callable[..., nn.Module]
    library_class: tuple[str, str]
    stems: Stems
    dummy_inputs: Callable[[Any], tuple[jax.ShapeDtypeStruct, ...]]
    key_rules: KeyRules = KeyRules()
    beside: tuple[str, ...] = ()

    def build(self, config: ModelConfig, **how: Any) -> nn.Module:
        """The module; of ``how`` it gets what it has attributes for."""
        known = {one.name for one in fields(self.module_cls)}  # type: ignore[arg-type]
        return self.module_cls(config, **{name: value for name, value in how.items() if name in known})


def real(*shape: int) -> jax.ShapeDtypeStruct:
    """Of inputs that are real numbers."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def whole(*shape: int) -> jax.ShapeDtypeStruct:
    """Of inputs that are whole numbers."""
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def _dummy_condition(config: Any) -> Any:
    """Text states, and what else a denoiser has embeddings for."""
    states: Any = real(1, 1, config.cross_attention_dim)
    more: dict[str, Any] = {"labels": whole(1)} if getattr(config, "num_class_embeds", None) else {}
    if getattr(config, "takes_guidance", False):
        more |= {"guidance": real(1)}
    if config.takes_sizes:
        more |= {"pooled": real(1, config.pooled_channels(1)), "sizes": real(1, 1)}  # its shapes know of the sum alone
    return Condition(states, **more) if more else states


UNET = ComponentKind(
    config_cls=UNetConfig,
    module_cls=UNet2DConditionModel,
    library_class=("diffusers", "UNet2DConditionModel"),
    stems=Stems("diffusion_pytorch_model", "diffusion_flax_model"),
    dummy_inputs=lambda c: (real(1, 64, 64, c.in_channels), whole(1), _dummy_condition(c)),
)
CONTROLNET = ComponentKind(
    config_cls=ControlNetConfig,
    module_cls=ControlNetModel,
    library_class=("diffusers", "ControlNetModel"),
    stems=Stems("diffusion_pytorch_model", "diffusion_flax_model"),
    dummy_inputs=lambda c: (
        *UNET.dummy_inputs(c),
        real(1, 64 * c.downscale, 64 * c.downscale, c.conditioning_channels),
    ),
)
T2I_ADAPTER = ComponentKind(
    config_cls=T2IAdapterConfig,
    module_cls=T2IAdapter,
    library_class=("diffusers", "T2IAdapter"),
    stems=Stems("diffusion_pytorch_model", "diffusion_flax_model"),
    dummy_inputs=lambda c: (real(1, 8 * c.downscale_factor, 8 * c.downscale_factor, c.in_channels),),
)
VAE = ComponentKind(
    config_cls=VAEConfig,
    module_cls=AutoencoderKL,
    library_class=("diffusers", "AutoencoderKL"),
    stems=Stems("diffusion_pytorch_model", "diffusion_flax_model"),
    dummy_inputs=lambda c: (real(1, 64, 64, c.in_channels),),
    # Flax up to its end, PyTorch before diffusers 0.17
    key_rules=KeyRules(legacy={"to_q": "query", "to_k": "key", "to_v": "value", "to_out_0": "proj_attn"}),
)
TAESD = ComponentKind(
    config_cls=TAESDConfig,
    module_cls=AutoencoderTiny,
    library_class=("diffusers", "AutoencoderTiny"),
    stems=Stems("diffusion_pytorch_model", "diffusion_flax_model"),
    dummy_inputs=lambda c: (real(1, 64, 64, c.in_channels),),
)
TAESD_DECODER = replace(
    TAESD, module_cls=TinyDecoder, dummy_inputs=lambda c: (real(1, 8, 8, c.latent_channels),)
)  # both halves have files of their own in the original layout
TAESD_ENCODER = replace(TAESD, module_cls=TinyEncoder)
CLIP_TEXT = ComponentKind(
    config_cls=CLIPTextConfig,
    module_cls=CLIPTextModel,
    library_class=("transformers", "CLIPTextModel"),
    stems=Stems("model", "flax_model"),
    dummy_inputs=lambda c: (whole(1, 1),),
    key_rules=KeyRules(
        prefix="text_model",  # transformers 5 leaves it out
        # Flax had no prefix rule for lists of transformers: layers/3. The path rule reads it, this row writes it.
        legacy={"layers_": "layers/"},
        ignored=("text_model/embeddings/position_ids",),
    ),
)
CLIP_TEXT_BEFORE_LAST = replace(CLIP_TEXT, module_cls=CLIPTextModelBeforeLast)
CLIP_TEXT_WITH_PROJECTION = ComponentKind(
    config_cls=CLIPTextProjectionConfig,
    module_cls=CLIPTextModelWithProjection,
    library_class=("transformers", "CLIPTextModelWithProjection"),
    stems=CLIP_TEXT.stems,
    dummy_inputs=CLIP_TEXT.dummy_inputs,
    key_rules=KeyRules(legacy={"layers_": "layers/"}, ignored=("text_model/embeddings/position_ids",)),
)

CLIP_VISION = ComponentKind(
    config_cls=CLIPVisionConfig,
    module_cls=CLIPVisionModelWithProjection,
    library_class=("transformers", "CLIPVisionModelWithProjection"),
    stems=Stems("model", "flax_model"),
    dummy_inputs=lambda c: (real(1, c.image_size, c.image_size, c.num_channels),),
    key_rules=KeyRules(legacy={"layers_": "layers/"}, ignored=("vision_model/embeddings/position_ids",)),
)
