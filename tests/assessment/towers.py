# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Random towers as files, and what they say of pictures, by hand: with Pillow, PyTorch and transformers alone."""

import shutil
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from PIL import Image

from tests import torch_models
from tests.runs import MODEL

MEANS = {
    "dino": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}


def save_dino(folder, *, seed: int = 0) -> Any:
    """DINO with patches of a quarter of the picture."""
    net = torch_models.build_dino("ViT", seed=seed, image_size=224, patch_size=56, layer_norm_eps=1e-12)
    net.save_pretrained(folder)
    return net


def save_clip(folder, *, size: int = 32) -> Any:
    """CLIP and its tokenizer."""
    text = {"vocab_size": 700, "hidden_act": "quick_gelu", "eos_token_id": 2}
    net = torch_models.build_clip(text=text, vision={"image_size": size, "patch_size": 8})
    net.save_pretrained(folder)
    shutil.copytree(MODEL / "tokenizer", folder, dirs_exist_ok=True)
    return net


def prepared(picture: np.ndarray, tower: str, *, shorter: int, square: int) -> Any:
    """Resize, CenterCrop, ToTensor and Normalize; torchvision, which DINO's code uses, rounds the middle."""
    import torch

    image = Image.fromarray(picture)
    width, height = image.size
    size = [shorter, int(shorter * max(image.size) / min(image.size))]
    image = image.resize(size if width <= height else size[::-1], Image.Resampling.BICUBIC)
    left, top = (round((side - square) / 2) if tower == "dino" else (side - square) // 2 for side in image.size)
    image = image.crop((left, top, left + square, top + square))
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    mean, deviation = (torch.tensor(numbers)[:, None, None] for numbers in MEANS[tower])
    return (tensor - mean) / deviation


@dataclass
class ByHand:
    """The three networks of PyTorch; any may be missing."""

    dino: Any = None
    clip: Any = None
    lpips: Any = None
    clip_size: int = 32

    def of_dino(self, pictures) -> Any:
        """Features of length 1."""
        import torch

        with torch.no_grad():
            rows = torch.stack([prepared(one, "dino", shorter=256, square=224) for one in pictures])
            return torch.nn.functional.normalize(self.dino(rows).last_hidden_state[:, 0].double())

    def of_clip(self, pictures) -> Any:
        """Features of length 1."""
        import torch

        size = self.clip_size
        with torch.no_grad():
            rows = torch.stack([prepared(one, "clip", shorter=size, square=size) for one in pictures])
            return torch.nn.functional.normalize(self.clip.get_image_features(rows).pooler_output.double())

    def of_texts(self, texts) -> Any:
        """Features of length 1."""
        import torch
        from transformers import CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
        ids = tokenizer(list(texts), padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        with torch.no_grad():
            features = self.clip.get_text_features(ids["input_ids"]).pooler_output
        return torch.nn.functional.normalize(features.double())

    def pairs(self, pictures) -> float:
        """Mean LPIPS over all pairs."""
        import torch

        tensors = [torch.from_numpy(one.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None] for one in pictures]
        with torch.no_grad():
            return float(np.mean([self.lpips(x, y).item() for x, y in combinations(tensors, 2)]))
