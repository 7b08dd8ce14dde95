# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A tiny random Stable Diffusion XL, and its refiner: PyTorch's pipelines, and the folders that they write."""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from tests import torch_models

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = ("text_encoder", "text_encoder_2", "unet", "vae")
TOKENIZERS = {"tokenizer": "legacy_flax_sd15", "tokenizer_2": "legacy_flax_sd21"}
"""The second pads with another token, as XL's does."""


def theirs(*, double: bool = False, **unet_options: Any) -> Any:
    """A ``StableDiffusionXLPipeline``; ``double``: in float64."""
    import diffusers
    import torch

    torch.set_num_threads(1)  # tiny networks: threads would only wait for each other
    models = torch_models.build(torch_models.XL, double=double, **unet_options)
    pipe = diffusers.StableDiffusionXLPipeline(
        unet=models.unet,
        vae=models.vae,
        text_encoder=models.text_encoder,
        text_encoder_2=models.text_encoder_2,
        scheduler=scheduler(double=double),
        **{name: tokenizer(name) for name in TOKENIZERS},
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def with_config(folder: Path, copy: Path, component: str, changes: Mapping[str, Any]) -> Path:
    """A copy of a model's folder in which a component's settings say something else."""
    shutil.copytree(folder, copy)
    file = copy / component / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return copy


def refiner(base: Any, *, double: bool = False) -> Any:
    """A ``StableDiffusionXLImg2ImgPipeline`` that goes on where ``base`` ends, with its VAE and second text encoder."""
    import diffusers

    pipe = diffusers.StableDiffusionXLImg2ImgPipeline(
        unet=torch_models.build_unet(torch_models.REFINER, seed=7, double=double),
        vae=base.vae,
        text_encoder=None,
        text_encoder_2=base.text_encoder_2,
        scheduler=scheduler(double=double),
        tokenizer=None,
        tokenizer_2=base.tokenizer_2,
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tokenizer(name: str) -> Any:
    """One of both."""
    import transformers

    return transformers.CLIPTokenizer.from_pretrained(FIXTURES / TOKENIZERS[name] / "tokenizer", model_max_length=77)


def scheduler(*, double: bool = False) -> Any:
    """DDIM."""
    import diffusers

    made = diffusers.DDIMScheduler.from_config(torch_models.scheduler_config(torch_models.XL))
    if double:
        made.alphas_cumprod = made.alphas_cumprod.double()
        made.final_alpha_cumprod = made.final_alpha_cumprod.double()
    return made


def doubled(pipe: Any, torch_pipe: Any) -> Any:
    """Ours in float64, with the weights of theirs."""
    modules = {name: module.clone(dtype=jnp.float64) for name, module in pipe.components.modules.items()}
    params = {name: torch_models.params_from_torch(getattr(torch_pipe, name)) for name in NAMES}
    return dataclasses.replace(pipe, components=dataclasses.replace(pipe.components, modules=modules), params=params)


def written(path: Path, **unet_options: Any) -> Path:
    """The folder of one."""
    theirs(**unet_options).save_pretrained(path)
    return path
