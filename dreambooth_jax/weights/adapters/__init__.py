# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Files of adapters (LoRA and its relatives): read in every dialect, written in kohya's and in PEFT's."""

from dreambooth_jax.weights.adapters.applying import applied as applied
from dreambooth_jax.weights.adapters.methods import Module as Module
from dreambooth_jax.weights.adapters.reading import AdapterFile as AdapterFile
from dreambooth_jax.weights.adapters.reading import read_adapter as read_adapter
from dreambooth_jax.weights.adapters.writing import write_adapter as write_adapter
