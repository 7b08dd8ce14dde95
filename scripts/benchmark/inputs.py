# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The work: the same numbers for everybody. Arrays are NHWC."""

from dataclasses import dataclass
from typing import Any

import numpy as np

SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
GUIDANCE, RATE = 7.5, 1e-6
PROMPT, CLASS_PROMPT = "a photo of sks dog", "a photo of a dog"


@dataclass(frozen=True, kw_only=True)
class Examples:
    """n examples, with one draw of all that is random about a step."""

    latents: np.ndarray
    noise: np.ndarray
    timesteps: np.ndarray
    text_states: np.ndarray
    input_ids: np.ndarray


def examples(configs: dict[str, dict[str, Any]], n: int, side: int | None = None) -> Examples:
    """For the networks of these configurations; by default at the size of latents that they were made for."""
    r = np.random.default_rng(0)
    side, text = side or configs["unet"]["sample_size"], configs["text_encoder"]
    tokens = text["max_position_embeddings"]
    return Examples(
        latents=r.standard_normal((n, side, side, 4), np.float32),
        noise=r.standard_normal((n, side, side, 4), np.float32),
        timesteps=r.integers(0, 1000, n).astype(np.int32),
        text_states=r.standard_normal((n, tokens, text["hidden_size"]), np.float32),
        input_ids=r.integers(3, text["vocab_size"], (n, tokens)).astype(np.int32),
    )
