# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A tiny random Stable Diffusion XL: PyTorch's pipeline, and the folder that it writes."""

from pathlib import Path
from typing import Any

from tests import torch_models

FIXTURES = Path(__file__).parent / "fixtures"
TOKENIZERS = {"tokenizer": "legacy_flax_sd15", "tokenizer_2": "legacy_flax_sd21"}
"""The second pads with another token, as XL's does."""


def theirs(*, double: bool = False, **unet_options: Any) -> Any:
    """A ``StableDiffusionXLPipeline``; ``double``: in float64."""
    import diffusers
    import torch
    import transformers

    torch.set_num_threads(1)  # tiny networks: threads would only wait for each other
    models = torch_models.build(torch_models.XL, double=double, **unet_options)
    scheduler = diffusers.DDIMScheduler.from_config(torch_models.scheduler_config(torch_models.XL))
    if double:
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
        scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    pipe = diffusers.StableDiffusionXLPipeline(
        unet=models.unet,
        vae=models.vae,
        text_encoder=models.text_encoder,
        text_encoder_2=models.text_encoder_2,
        scheduler=scheduler,
        **{
            name: transformers.CLIPTokenizer.from_pretrained(FIXTURES / kind / "tokenizer", model_max_length=77)
            for name, kind in TOKENIZERS.items()
        },
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def written(path: Path, **unet_options: Any) -> Path:
    """The folder of one."""
    theirs(**unet_options).save_pretrained(path)
    return path
