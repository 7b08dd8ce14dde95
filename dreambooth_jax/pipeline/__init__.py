# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Prompts to pictures."""

from dreambooth_jax.pipeline.controls import Control, load_control
from dreambooth_jax.pipeline.load import describe_pretrained, load_pretrained
from dreambooth_jax.pipeline.pipeline import Pipeline

__all__ = ["Control", "Pipeline", "describe_pretrained", "load_control", "load_pretrained"]
