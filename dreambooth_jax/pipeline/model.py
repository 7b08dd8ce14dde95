# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A model with what it needs to be asked: its networks and their parameters, tokenizers, noise and devices."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dreambooth_jax.data.tokenizer import Tokenizer, load_tokenizer
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.errors import InputError
from dreambooth_jax.models.condition import SILENT, Condition, Conditioner, id_leaves
from dreambooth_jax.pipeline.arguments import texts_of
from dreambooth_jax.pipeline.generate import apply, encode
from dreambooth_jax.target import Target
from dreambooth_jax.training.parallel.sharding import lower_rows, map_rows, rows_per_device
from dreambooth_jax.trees import Tree
from dreambooth_jax.weights.pretrained import Components

M = TypeVar("M", bound="Model")


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """A model, and the pieces of it that training and drawing need."""

    components: Components
    """Modules and configurations. Its ``params`` are empty: nothing but the pipeline's own holds them in memory."""
    params: Tree
    """{"text_encoder": ..., "unet": ..., "vae": ...}"""
    tokenizers: Mapping[str, Tokenizer]
    """Of each text encoder."""
    schedule: NoiseSchedule
    target: Target
    """The devices that it computes on: those of this process."""
    word_files: Mapping[str, str] = field(default_factory=dict)
    """New words that are from files, and how the hash of each file begins."""

    @classmethod
    def from_components(cls: type[M], components: Components, target: Target) -> M:
        """Add what the model's folder says about tokens and noise.

        Raises:
            InputError: if tokenizer files are missing or broken, or the scheduler asks for something we don't have.
        """
        tokenizers = {
            encoder: load_tokenizer(folder, max_length=components.modules[encoder].config.max_position_embeddings)
            for encoder, folder in components.tokenizers.items()
        }
        return cls(
            components=dataclasses.replace(components, params={}),
            params=components.params,
            tokenizers=tokenizers,
            schedule=NoiseSchedule.from_config(components.scheduler_config),
            target=target,
        )

    @property
    def unet(self) -> Any:
        """The denoiser: latents, timesteps, text states or condition -> prediction."""
        return self.components.modules["unet"]

    @property
    def vae(self) -> Any:
        """Pictures <-> raw latents; all other latents are scaled: times ``vae.config.scaling_factor``."""
        return self.components.modules["vae"]

    @property
    def text_encoder(self) -> Any:
        """The first text encoder: ids -> text states."""
        return self.components.modules[next(iter(self.components.family.text_encoders))]

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the first text encoder."""
        return next(iter(self.tokenizers.values()))

    @property
    def conditioner(self) -> Conditioner:
        """Token ids -> what the denoiser is told."""
        return self.components.conditioner

    @property
    def latent_channels(self) -> int:
        """Of the autoencoder. The denoiser may take more: see :meth:`check_text_to_image`."""
        return self.vae.config.latent_channels

    def check_text_to_image(self) -> None:
        """Raise InputError if the denoiser wants more than noisy latents, a mask say: prompts alone are not enough."""
        wanted = self.unet.config.in_channels
        if wanted != self.latent_channels:
            raise InputError(
                f"the unet of {self.components.folder} takes {wanted} channels, not the {self.latent_channels} of "
                "latents: it fills in masks or enlarges pictures, which cannot be trained here; take a model that "
                "draws from prompts alone"
            )

    @property
    def native_size(self) -> int:
        """Pixels of the side of pictures that the model was trained with; 512 for the usual one that does not say."""
        return (self.unet.config.sample_size or 64) * self.vae.config.downscale

    def input_ids(self, prompts: Sequence[str]) -> dict[str, Int[np.ndarray, "b s"]]:
        """Token ids of prompts for each text encoder."""
        return {encoder: tokenizer(prompts) for encoder, tokenizer in self.tokenizers.items()}

    def silent(self, texts: Sequence[str]) -> Bool[np.ndarray, "b"] | None:
        """Which texts say nothing at all, not even what text encoders make of none: the denoiser is told zeros of them.
        None of a model that was not trained so (``force_zeros_for_empty_prompt``)."""
        if not self.components.index.get("force_zeros_for_empty_prompt"):
            return None
        return np.asarray([not text.strip() for text in texts])

    def text_leaves(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Token ids of texts, and which say nothing where that counts, as entries of a batch."""
        silent = self.silent(texts)
        return id_leaves(self.input_ids(texts)) | ({} if silent is None else {SILENT: silent})

    def condition_to_learn(self, params: Tree, texts: Sequence[str]) -> Condition:
        """What the denoiser is told of texts while it learns: as :meth:`condition`, but of an empty one what it is told
        beside a prompt when pictures are drawn, so that what guidance leans away from is what it has learned."""
        return self.condition(params, texts).silenced(self.silent(texts))

    def condition(self, params: Tree, prompts: str | Sequence[str]) -> Condition:
        """What the denoiser is told of prompts, in at least float32."""
        ids = self.input_ids(texts_of("prompts", prompts))
        needed = {name: params[name] for name in ids}
        return map_rows(self.target.mesh, encode, (self.conditioner,), needed, ids)

    def encode_prompts(self, params: Tree, prompts: str | Sequence[str]) -> Float[Array, "b s d"]:
        """Text states of prompts, in at least float32."""
        return self.condition(params, prompts).states

    def encode_images(
        self, params: Tree, images: Float[Array | np.ndarray, "b H W 3"]
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w c"]]:
        """Mean and log variance of the raw, unscaled latents of pictures in [-1, 1], in at least float32."""
        return map_rows(self.target.mesh, apply, (self.vae, "encode"), params["vae"], images)

    def lower_encode_images(self, count: int, *, height: int, width: int) -> jax.stages.Lowered:
        """The program that :meth:`encode_images` encodes ``count`` pictures of one size with, as :meth:`lower`."""
        shape = (
            rows_per_device(self.target.mesh, count) * self.target.mesh.size,
            height,
            width,
            self.vae.config.in_channels,
        )
        images = jax.ShapeDtypeStruct(shape, jnp.float32)
        return lower_rows(self.target.mesh, apply, (self.vae, "encode"), self.params["vae"], images)
