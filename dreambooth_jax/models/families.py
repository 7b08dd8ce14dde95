# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Kinds of models as data: which networks they have, how their files are named, and what conditions the denoiser.

A family is one value and a line in ``FAMILIES``. Each has a denoiser called ``unet`` and an autoencoder called ``vae``;
its text encoders are listed. The rest of the package asks the family and never for its name.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import jax.numpy as jnp

from dreambooth_jax.models.clip_configs import CLIPTextProjectionConfig
from dreambooth_jax.models.components import (
    CLIP_TEXT,
    CLIP_TEXT_BEFORE_LAST,
    CLIP_TEXT_WITH_PROJECTION,
    UNET,
    VAE,
    ComponentKind,
)
from dreambooth_jax.models.condition import Condition
from dreambooth_jax.models.configs import UNetConfig, VAEConfig


@dataclass(frozen=True, kw_only=True)
class Naming:
    """What tools call a family and its networks.

    Attributes:
        kohya: network -> what names of its layers begin with in sd-scripts' files of adapters.
        counts_as_original: in these the denoiser's blocks are counted as the original code does, in one row.
        base: sd-scripts' name of the family; None where it depends on more than the family.
        architecture: name in the model specification; None where it depends on more than the family.
        implementation: whose names its adapters have, for the model specification.
    """

    kohya: Mapping[str, str] = field(default_factory=lambda: {"unet": "lora_unet_", "text_encoder": "lora_te_"})
    counts_as_original: bool = False
    base: str | None = None
    architecture: str | None = None
    implementation: str = "diffusers"


Number: TypeAlias = int | float


def _view_alone(view: Sequence[Number], score: Number) -> tuple[Number, ...]:
    return tuple(view)


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """A kind of model.

    Attributes:
        name: of the family.
        pipeline_class: ``_class_name`` in ``model_index.json``.
        components: folder -> the kind of network in it; ``unet`` and ``vae`` are among them.
        text_encoders: those of the components that read prompts -> the folder of the tokenizer of each.
        condition: outputs of the text encoders by name -> what the denoiser is told.
        misfits: configs of all components -> one line for each way in which they don't fit each other.
        clip_skip: the hidden state of its text encoders that it was trained with, counted as Forge and ComfyUI do: 1 is
            the last.
        sizes: (height and width of a picture, top and left of a cut, height and width of what is seen; how beautiful
            that is, from 1 to 10) -> the numbers that the denoiser is told, if it is told any.
        absent: components that its folders say they do without, where others with the same pipeline have them.
        index: what else ``model_index.json`` says: components that we do without, and settings by their defaults.
        naming: what tools call it.
    """

    name: str
    pipeline_class: str
    components: Mapping[str, ComponentKind]
    text_encoders: Mapping[str, str]
    condition: Callable[[Mapping[str, Any]], Condition]
    misfits: Callable[[Mapping[str, Any]], Iterator[str]]
    clip_skip: int = 1
    sizes: Callable[[Sequence[Number], Number], tuple[Number, ...]] = _view_alone
    absent: tuple[str, ...] = ()
    index: Mapping[str, Any] = field(default_factory=dict)
    naming: Naming = Naming()

    @property
    def size_numbers(self) -> int:
        """How many numbers a denoiser of it is told that knows of sizes."""
        return len(self.sizes((0,) * 6, 0))


_NONE = (None, None)
"""A component that a folder does without."""


def _sd_condition(outputs: Mapping[str, Any]) -> Condition:
    return Condition(states=outputs["text_encoder"])


def latent_misfits(unet: UNetConfig, vae: VAEConfig) -> Iterator[str]:
    """Of a denoiser and an autoencoder. A denoiser may take more channels than latents have, such as a mask."""
    latents = f"the vae's latent_channels = {vae.latent_channels}"
    if unet.out_channels != vae.latent_channels:
        yield f"unet's out_channels = {unet.out_channels} does not fit {latents}"
    if unet.in_channels < vae.latent_channels:
        yield f"unet's in_channels = {unet.in_channels} is less than {latents}"


def _sd_misfits(configs: Mapping[str, Any], *, text_encoder: str = "text_encoder") -> Iterator[str]:
    unet, text = configs["unet"], configs[text_encoder]
    yield from latent_misfits(unet, configs["vae"])
    if unet.cross_attention_dim != text.hidden_size:
        width = f"unet's cross_attention_dim = {unet.cross_attention_dim}"
        yield f"{width} does not fit the {text_encoder}'s hidden_size = {text.hidden_size}"


SD = Family(
    name="sd",
    pipeline_class="StableDiffusionPipeline",
    components={"text_encoder": CLIP_TEXT, "unet": UNET, "vae": VAE},
    text_encoders={"text_encoder": "tokenizer"},
    condition=_sd_condition,
    misfits=_sd_misfits,
    index={"feature_extractor": _NONE, "requires_safety_checker": False, "safety_checker": _NONE},
)
"""Stable Diffusion 1 and 2."""


def _sdxl_condition(outputs: Mapping[str, Any]) -> Condition:
    first, second = outputs["text_encoder"], outputs["text_encoder_2"]
    return Condition(states=jnp.concatenate([first, second.states], axis=-1), pooled=second.pooled)


def _sdxl_misfits(configs: Mapping[str, Any]) -> Iterator[str]:
    unet, first, second = (configs[name] for name in ("unet", "text_encoder", "text_encoder_2"))
    yield from latent_misfits(unet, configs["vae"])
    both = first.hidden_size + second.hidden_size
    if unet.cross_attention_dim != both:
        width = f"unet's cross_attention_dim = {unet.cross_attention_dim}"
        yield f"{width} does not fit the hidden_size of text_encoder and text_encoder_2, {both} together"
    yield from _addition_misfits(unet, second, sizes=6)


def _addition_misfits(unet: UNetConfig, text: CLIPTextProjectionConfig, *, sizes: int) -> Iterator[str]:
    """Of a denoiser that is told of sizes, and the text encoder that says of a text as a whole."""
    if not unet.takes_sizes:
        yield f"unet's addition_embed_type = {unet.addition_embed_type} is not text_time"
    elif unet.pooled_channels(sizes) != text.projection_dim:
        width = f"unet's projection_class_embeddings_input_dim = {unet.projection_class_embeddings_input_dim}"
        rest = f"{sizes} x addition_time_embed_dim = {unet.addition_time_embed_dim}"
        yield f"{width} is not {rest} and the text_encoder_2's projection_dim = {text.projection_dim}"


SDXL = Family(
    name="sdxl",
    pipeline_class="StableDiffusionXLPipeline",
    components={
        **{"text_encoder": CLIP_TEXT_BEFORE_LAST, "text_encoder_2": CLIP_TEXT_WITH_PROJECTION},
        **{"unet": UNET, "vae": VAE},
    },
    text_encoders={"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"},
    condition=_sdxl_condition,
    misfits=_sdxl_misfits,
    clip_skip=2,
    index={"feature_extractor": _NONE, "image_encoder": _NONE, "force_zeros_for_empty_prompt": True},
    naming=Naming(
        kohya={"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"},
        counts_as_original=True,
        base="sdxl_base_v1-0",
        architecture="stable-diffusion-xl-v1-base",
        implementation="https://github.com/Stability-AI/generative-models",
    ),
)
"""Stable Diffusion XL."""


def _refiner_condition(outputs: Mapping[str, Any]) -> Condition:
    (text,) = outputs.values()
    return Condition(states=text.states, pooled=text.pooled)


def _refiner_misfits(configs: Mapping[str, Any]) -> Iterator[str]:
    yield from _sd_misfits(configs, text_encoder="text_encoder_2")
    yield from _addition_misfits(configs["unet"], configs["text_encoder_2"], sizes=5)


SDXL_REFINER = Family(
    name="sdxl-refiner",
    pipeline_class="StableDiffusionXLImg2ImgPipeline",
    components={"text_encoder_2": CLIP_TEXT_WITH_PROJECTION, "unet": UNET, "vae": VAE},
    text_encoders={"text_encoder_2": "tokenizer_2"},
    condition=_refiner_condition,
    misfits=_refiner_misfits,
    clip_skip=2,
    sizes=lambda view, score: (*view[:4], score),
    absent=("text_encoder",),
    index={
        **{"feature_extractor": _NONE, "image_encoder": _NONE, "text_encoder": _NONE, "tokenizer": _NONE},
        **{"force_zeros_for_empty_prompt": False, "requires_aesthetics_score": True},
    },
    naming=Naming(
        kohya={"unet": "lora_unet_", "text_encoder_2": "lora_te2_"},
        counts_as_original=True,
        base="sdxl_refiner_v1-0",
        architecture="stable-diffusion-xl-v1-refiner",
        implementation=SDXL.naming.implementation,
    ),
)
"""The model that draws the last steps of Stable Diffusion XL (arXiv 2307.01952, § 2.5): it has the second text encoder
alone, and is told how beautiful a picture is in the place of its size."""

FAMILIES: dict[str, Family] = {one.pipeline_class: one for one in (SD, SDXL, SDXL_REFINER)}
"""By ``pipeline_class``."""


def family_of(pipeline_class: object, *, absent: Collection[str] = ()) -> Family:
    """The family of a ``_class_name`` that begins as its does, as its img2img pipeline's, and of components that are
    said to be absent; Stable Diffusion for one that is missing or that we don't know: whether the networks are its own,
    their configurations tell."""
    name = str(pipeline_class).removeprefix("Flax")
    alike = [
        known
        for known, family in FAMILIES.items()
        if name.startswith(known.removesuffix("Pipeline"))
        and set(family.absent) <= set(absent)
        and not family.components.keys() & set(absent)
    ]
    return FAMILIES[max(alike, key=len)] if alike else SD


def family_named(name: object) -> Family:
    """The family of this name; Stable Diffusion for one that we don't know."""
    return next((family for family in FAMILIES.values() if family.name == name), SD)
