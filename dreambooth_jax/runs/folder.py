# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Where things are in a run's folder.

config.yaml      resolved settings            checkpoints/   Orbax
class_images/    with manifest.jsonl          samples/       step_000400.png
cache/           latents                      metrics.jsonl  and TensorBoard events
model/           the diffusers folder, at the end, or lora.safetensors, and exported.json, which says how it was written
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFolder:
    """Where things are in a run's folder."""

    path: Path

    @property
    def config(self) -> Path:
        """Resolved settings."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """Orbax's."""
        return self.path / "checkpoints"

    @property
    def class_images(self) -> Path:
        """Pictures of the class and their manifest."""
        return self.path / "class_images"

    @property
    def cache(self) -> Path:
        """Moments of latents."""
        return self.path / "cache"

    @property
    def model(self) -> Path:
        """What was trained, as a diffusers folder."""
        return self.path / "model"

    @property
    def adapter(self) -> Path:
        """What was trained, where it is an adapter of kernels: one file."""
        return self.path / "lora.safetensors"

    @property
    def embedding(self) -> Path:
        """What was trained, where it is a new word: one file; of several words names of files begin as its does."""
        return self.path / "embedding.safetensors"

    def samples(self, step: int) -> Path:
        """The grid made after so many steps."""
        return self.path / "samples" / f"step_{step:06d}.png"

    @property
    def exported(self) -> Path:
        """Which step the model was written from, and how."""
        return self.path / "exported.json"

    @property
    def before_after(self) -> Path:
        """The first grid beside the last."""
        return self.path / "samples" / "before_after.png"

    def is_run(self) -> bool:
        """Has a run written here?"""
        return self.config.exists()
