# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Prompts to pictures: a model with what it needs to be asked.

Each local device runs the program on its share of the pictures, with its own copy of the parameters. It is compiled
once for each number and size of pictures, with guidance and without; the sampler, schedule, steps, guidance scale, eta
and seeds are its arguments.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dreambooth_jax.config import SamplingConfig
from dreambooth_jax.data.pictures import Source
from dreambooth_jax.data.tokenizer import Tokenizer, load_tokenizer
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.errors import InputError
from dreambooth_jax.models.condition import Condition, Conditioner
from dreambooth_jax.pipeline.call import Output, draw, program_of, shapes_of_rows
from dreambooth_jax.pipeline.controls import Control, controls_of, guided_by
from dreambooth_jax.pipeline.generate import apply, encode, generate
from dreambooth_jax.pipeline.request import read_request, sampling_of, texts_of
from dreambooth_jax.pipeline.run import OnStep
from dreambooth_jax.pipeline.words import with_embeddings, with_words
from dreambooth_jax.target import Target
from dreambooth_jax.training.parallel.sharding import lower_rows, map_rows, rows_per_device
from dreambooth_jax.trees import Tree
from dreambooth_jax.weights.pretrained import Components


@dataclass(frozen=True, kw_only=True, eq=False)
class Pipeline:
    """A model that makes pictures of prompts, and the pieces of it that training needs."""

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
    def from_components(cls, components: Components, target: Target) -> "Pipeline":
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

    def with_words(self, words: Mapping[str, int]) -> "Pipeline":
        """The same for prompts with new words, which have so many vectors. The vectors are the parameter ``added`` of
        each text encoder, which is still to be given.

        Raises:
            InputError: if it has such a word already, or no prompt could have it.
        """
        return with_words(self, words)

    def with_embeddings(self, files: Sequence[str | Path] | Mapping[str, str | Path]) -> "Pipeline":
        """The same with the words of files: of textual inversion, in the form of diffusers or of A1111, or of a LoRA
        that brings words. They count in prompts and negative prompts; each vector takes the room of a token.

        Args:
            files: of which each word is called as the file says, or else as the file is called; or word -> file.

        Raises:
            InputError: if a file is not there, is none or is for another kind of model, or a word is there already.
        """
        return with_embeddings(self, files)

    def input_ids(self, prompts: Sequence[str]) -> dict[str, Int[np.ndarray, "b s"]]:
        """Token ids of prompts for each text encoder."""
        return {encoder: tokenizer(prompts) for encoder, tokenizer in self.tokenizers.items()}

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

    def __call__(
        self,
        prompts: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] | None = None,
        seed: int | Sequence[int] = 0,
        sampling: SamplingConfig | None = None,
        latents: Array | np.ndarray | None = None,
        image: Source | Sequence[Source] | None = None,
        mask: Source | Sequence[Source] | None = None,
        control: Control | Sequence[Control] | None = None,
        params: Tree | None = None,
        output: Output = "uint8",
        on_step: OnStep | None = None,
        **options: Any,
    ) -> np.ndarray:
        """Make one picture of each prompt.

        A picture depends on its own prompt, seed and latents alone: neither on the others of its batch, nor, but for
        rounding, on the number of devices.

        Args:
            prompts: one or several.
            negative_prompt: what to lean away from: one for all, or one for each; by default that of ``sampling``, "".
            seed: picture i is made with seed + i; or one for each. Up to 2³² − 1, with other tools' noise 2⁶⁴ − 1.
            sampling: all that decides a picture, apart from these.
            latents: [b, height / 8, width / 8, 4] to start from, instead of normal ones drawn from the seeds.
            image: to start from, as far as ``strength`` leaves it. One for all, or one for each: a file, a Pillow
                picture, or an array [h, w, 3] of uint8, or of real numbers in [0, 1]. The size is by default its own.
            mask: where the image is drawn anew, in white; the rest of it is kept. As the image, or an array [h, w]; or
                "alpha": where the image is transparent.
            control: networks that guide the denoiser by pictures of their own: one or several. The size is by default
                that of the first one's picture, unless there is an image.
            params: in the place of the pipeline's own. Copied to each local device, unless they lie there already.
            output: "uint8"; "float32": not rounded, in [0, 1]; "latents": scaled, as they go into the decoder.
            on_step: called after each call of the network with a :class:`~dreambooth_jax.pipeline.run.Step`: how far it
                is, and what the pictures will be as far as one can tell. It changes no picture.
            options: fields of :class:`DrawingConfig` that differ from ``sampling``, by default steps=50,
                guidance_scale=7.5, sampler="ddim". Steps go up to the timesteps that the model was trained with. With
                a guidance scale of 1 or less the network is asked once instead of twice, and the negative prompt does
                not count. Height and width are by default those of ``latents``, or else ``native_size``.

        Returns:
            uint8 or float32 [b, height, width, 3], or float32 [b, height / 8, width / 8, 4].

        Raises:
            InputError: naming the argument that is wrong.
        """
        request = read_request(
            prompts,
            negative_prompt=negative_prompt,
            seed=seed,
            sampling=sampling,
            options=options,
            latents=latents,
            image=image,
            controls=controls_of(control),
            mask=mask,
        )
        return draw(self, request, self.params if params is None else params, output=output, on_step=on_step)

    def lower(
        self,
        count: int,
        *,
        sampling: SamplingConfig | None = None,
        control: Control | Sequence[Control] | None = None,
        **options: Any,
    ) -> jax.stages.Lowered:
        """The program that a call makes ``count`` pictures of one size with, ready to be compiled; nothing is computed.

        The pipeline's parameters may be shapes (:func:`describe_pretrained`). A call afterwards finds it compiled.
        """
        sampling = sampling_of(sampling, options)
        static, shared = program_of(self, sampling)
        rows = shapes_of_rows(self, rows_per_device(self.target.mesh, count) * self.target.mesh.size, sampling)
        program = guided_by(controls_of(control), (static, shared, rows, self.params), factor=self.vae.config.downscale)
        static, shared, rows, params = program
        return lower_rows(self.target.mesh, generate, static, params, rows, shared)
