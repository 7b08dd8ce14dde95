# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What was trained, as files that other programs open: whole models, and adapters."""

from dreambooth_jax.export.adapter import save_adapter as save_adapter
from dreambooth_jax.export.model import save_pretrained as save_pretrained
from dreambooth_jax.export.run_metadata import metadata_of_words as metadata_of_words
from dreambooth_jax.export.run_metadata import run_metadata as run_metadata
from dreambooth_jax.export.words import bundle_of as bundle_of
from dreambooth_jax.export.words import save_words as save_words
