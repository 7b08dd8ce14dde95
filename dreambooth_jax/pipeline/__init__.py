# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Prompts to pictures."""

from dreambooth_jax.pipeline.load import describe_pretrained, load_pretrained
from dreambooth_jax.pipeline.pipeline import Pipeline

__all__ = ["Pipeline", "describe_pretrained", "load_pretrained"]
