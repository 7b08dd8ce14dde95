# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A Stable Diffusion that is small in width and depth alone: its heads, keys and pictures are those of real ones."""

import json
import shutil
from pathlib import Path

TOKENIZER = Path(__file__).parents[1] / "fixtures" / "legacy_flax_sd15" / "tokenizer"
CHANNELS, LAYERS, HEADS = (80, 160, 320), 1, 2
"""Two heads of 40, 80 and 160."""
CONFIGS = {
    "unet/config.json": {
        "attention_head_dim": HEADS,
        "block_out_channels": CHANNELS,
        "cross_attention_dim": 64,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3,
        "layers_per_block": LAYERS,
        "norm_num_groups": 16,
        "sample_size": 64,
        "up_block_types": ["CrossAttnUpBlock2D"] * 3,
    },
    "vae/config.json": {
        "block_out_channels": [16, 16, 32, 32],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    },
    "text_encoder/config.json": {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_attention_heads": 1,
        "num_hidden_layers": 2,
        "vocab_size": 553,
    },
    "scheduler/scheduler_config.json": {
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "num_train_timesteps": 1000,
    },
    "model_index.json": {"_class_name": "StableDiffusionPipeline"},
}


def write(folder: Path, **changes: dict) -> Path:
    """The model's folder without weights; ``changes`` are of ``unet``, ``vae`` and ``text_encoder``."""
    for name, config in CONFIGS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(config | changes.get(name.split("/")[0], {})))
    shutil.copytree(TOKENIZER, folder / "tokenizer", dirs_exist_ok=True)
    return folder


def kept_by_the_backward_pass(side: int) -> int:
    """Numbers that one example leaves to the UNet's backward pass, plus those of its widest moment.

    A resnet needs the inputs of its norms and convolutions: 2 c_in + 2 c for each position. A transformer with one
    block needs, of c channels each: what comes in, two normed, q, k, v and the result of self-attention; the same but
    for k and v of cross-attention; 8 and 4 of the feed-forward layer, with the norm before; and what its two
    projections are given. While that layer's gradient is taken, 12 more.
    """
    positions, total, channels = side**2, 0, CHANNELS[0]
    skips = [channels]

    def layer(inputs: int, outputs: int) -> int:
        resnet, transformer = 2 * inputs + 2 * outputs, 27 * outputs
        return (resnet + transformer) * positions

    for level, features in enumerate(CHANNELS):
        for _ in range(LAYERS):
            total, channels = total + layer(channels, features), features
            skips.append(features)
        if level < len(CHANNELS) - 1:
            total, positions = total + features * positions, positions // 4
            skips.append(features)
    total += 2 * 4 * channels * positions + 27 * channels * positions  # two resnets and a transformer
    for level, features in reversed(list(enumerate(CHANNELS))):
        for _ in range(LAYERS + 1):
            total, channels = total + layer(channels + skips.pop(), features), features
        if level:
            positions *= 4
            total += features * positions
    return total + (2 + 12) * CHANNELS[0] * positions
