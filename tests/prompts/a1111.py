# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A1111's rules for chunks and emphasis, written down by themselves: the oracle of long and weighted prompts."""

from typing import Any

import numpy as np


def cuts(ids: list[int], comma: int | None, room: int = 75, back_off: int = 20) -> list[int]:
    """Where a text is cut: before these of its tokens."""
    found, first = [], 0
    while len(ids) - first > room:
        cut = first + room
        near = [i for i in range(max(first, cut - back_off), cut) if ids[i] == comma]
        if near and ids[cut] != comma:
            cut = near[-1] + 1
        found.append(cut)
        first = cut
    return found


def encode(text_encoder: Any, ids: np.ndarray, weights: np.ndarray, *, layer: int = -1, restore: bool = True) -> Any:
    """PyTorch states [1, 77 k, d] of one picture's chunks [k, 77]: each with its own mean restored."""
    import torch

    chunks = []
    for row, weight in zip(ids, weights):
        output = text_encoder(torch.tensor(row[None], dtype=torch.long), output_hidden_states=True)
        model = getattr(text_encoder, "text_model", text_encoder)
        z = model.final_layer_norm(output.hidden_states[layer])
        mean = z.mean()
        z = z * torch.tensor(weight, dtype=z.dtype)[None, :, None]
        chunks.append(z * (mean / z.mean()) if restore else z)
    return torch.cat(chunks, dim=1)
