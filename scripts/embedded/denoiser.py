# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The denoiser's stage: UNet and text encoder together, on the cached moments of the corpus.

Noise ends in noise alone (ᾱ_T = 0, Lin et al. 2023) and the network predicts v, so that a caption alone decides the
background: with the usual schedule a trace of its colour survives in the last step and is looked at instead.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float16, Int32

from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.models import CLIPTextModel, UNet2DConditionModel
from dreambooth_jax.models.condition import Conditioner, id_leaves
from dreambooth_jax.models.families import SD
from dreambooth_jax.training.objective import DenoisingObjective
from dreambooth_jax.trees import Tree, map_named, matcher
from dreambooth_jax.weights.modules import build_modules

from . import vocabulary
from .fit import HostBatch, initial
from .settings import Denoiser


def scheduler_config(own: Denoiser) -> dict[str, Any]:
    """What goes into scheduler/scheduler_config.json."""
    to_noise_alone = own.prediction_type != "epsilon"  # which at pure noise would say nothing
    return {
        "_class_name": "DDIMScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "prediction_type": own.prediction_type,
        "rescale_betas_zero_snr": to_noise_alone,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "timestep_spacing": "trailing" if to_noise_alone else "leading",
    }


def configs(own: Denoiser, *, sample_size: int, vocab_size: int) -> dict[str, dict[str, Any]]:
    """The config.json of UNet and text encoder."""
    lower = len(own.channels) - 1
    unet = {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": own.heads,
        "block_out_channels": list(own.channels),
        "center_input_sample": False,
        "cross_attention_dim": own.text_width,
        "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * lower,
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": own.layers,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-5,
        "norm_num_groups": own.groups,
        "out_channels": 4,
        "sample_size": sample_size,
        "up_block_types": ["CrossAttnUpBlock2D"] * lower + ["UpBlock2D"],
        "use_linear_projection": True,
    }
    text_encoder = {
        "architectures": ["CLIPTextModel"],
        "bos_token_id": vocab_size - 2,
        "eos_token_id": vocab_size - 1,
        "hidden_act": "quick_gelu",
        "hidden_size": own.text_width,
        "intermediate_size": 4 * own.text_width,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": vocabulary.LENGTH,
        "model_type": "clip_text_model",
        "num_attention_heads": own.heads,
        "num_hidden_layers": own.text_layers,
        "pad_token_id": vocab_size - 1,
        "projection_dim": own.text_width,
        "vocab_size": vocab_size,
    }
    return {"unet": unet, "text_encoder": text_encoder}


def start(modules: dict[str, Any], *, seed: int) -> Tree:
    """Random parameters of both networks. The UNet begins as one that changes nothing and predicts zero."""
    unet: UNet2DConditionModel = modules["unet"]
    text: CLIPTextModel = modules["text_encoder"]
    side, width = unet.config.sample_size, unet.config.cross_attention_dim
    latents = jax.ShapeDtypeStruct((1, side, side, 4), jnp.float32)
    states = jax.ShapeDtypeStruct((1, 1, width), jnp.float32)
    timesteps = jax.ShapeDtypeStruct((1,), jnp.int32)
    random = initial(unet, latents, timesteps, states, seed=seed)
    is_last = matcher([".*(conv2|proj_out|conv_out)/kernel"])  # of its branch
    return {
        "unet": map_named(lambda name, leaf: jnp.zeros_like(leaf) if is_last(name) else leaf, random),
        "text_encoder": initial(text, jax.ShapeDtypeStruct((1, 77), jnp.int32), seed=seed + 1),
    }


def objective(modules: dict[str, Any], own: Denoiser, scaling_factor: float) -> DenoisingObjective:
    """The same that personalisation uses."""
    return DenoisingObjective(
        unet=modules["unet"],
        conditioner=Conditioner((("text_encoder", modules["text_encoder"]),), SD.condition),
        schedule=NoiseSchedule.from_config(scheduler_config(own)),
        scaling_factor=scaling_factor,
        n_instances=own.stage.batch_size,
    )


@dataclass(frozen=True, kw_only=True)
class Latents:
    """The corpus as the denoiser sees it; called with a step, its batch."""

    mean: Float16[np.ndarray, "n h w c"]
    logvar: Float16[np.ndarray, "n h w c"]
    ids: Int32[np.ndarray, "n s"]
    own: Denoiser
    seed: int

    def __call__(self, step: int) -> HostBatch:
        """Rows drawn at random; a tenth of them without their caption."""
        count = self.own.stage.batch_size
        rng = np.random.default_rng((self.seed, step))
        rows = np.sort(rng.integers(0, len(self.ids), count))
        ids = self.ids[rows]
        ids[rng.random(count) < self.own.empty_captions, 1:] = ids.max()  # the highest id ends and pads
        return {
            "mean": self.mean[rows].astype(np.float32),
            "logvar": self.logvar[rows].astype(np.float32),
            **id_leaves({"text_encoder": ids}),
            "weight": np.ones(count, np.float32),
            "is_prior": np.zeros(count, bool),
            "index": np.arange(count, dtype=np.int32),
        }


def modules(configs: dict[str, dict[str, Any]], dtype: Any) -> dict[str, Any]:
    """The three networks."""
    return build_modules(configs, dtype=dtype)
