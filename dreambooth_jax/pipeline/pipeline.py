# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Prompts to pictures.

Each local device runs the program on its share of the pictures, with its own copy of the parameters. It is compiled
once for each number and size of pictures, with guidance and without; the sampler, schedule, steps, guidance scale, eta
and seeds are its arguments.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from dreambooth_jax.config import SamplingConfig
from dreambooth_jax.data.pictures import Source
from dreambooth_jax.pipeline.call import Output, draw
from dreambooth_jax.pipeline.controls import Control, controls_of, guided_by
from dreambooth_jax.pipeline.generate import generate
from dreambooth_jax.pipeline.model import Model
from dreambooth_jax.pipeline.program import program_of
from dreambooth_jax.pipeline.request import read_request, sampling_of
from dreambooth_jax.pipeline.rows import shapes_of_rows
from dreambooth_jax.pipeline.run import OnStep
from dreambooth_jax.pipeline.words import with_embeddings, with_words
from dreambooth_jax.training.parallel.sharding import lower_rows, rows_per_device
from dreambooth_jax.trees import Tree


@dataclass(frozen=True, kw_only=True, eq=False)
class Pipeline(Model):
    """A model that makes pictures of prompts."""

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
        refiner: Model | None = None,
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
            refiner: another pipeline, such as XL's refiner, that draws a run's end, from the share ``refiner_start`` of
                the timesteps on. The autoencoder and the devices are this one's, and controls are for this one alone.
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
        given: dict[str, Any] = {"latents": latents, "image": image, "mask": mask, "refiner": refiner}
        told: dict[str, Any] = {"negative_prompt": negative_prompt, "sampling": sampling, "options": options}
        request = read_request(prompts, seed=seed, controls=controls_of(control), **told, **given)
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
