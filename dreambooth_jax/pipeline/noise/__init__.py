# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Random numbers as other tools draw them, so that their pictures can be made again."""

from dreambooth_jax.pipeline.noise.sources import RULES, ToolNoise

__all__ = ["RULES", "ToolNoise"]
