# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Settings: what there is (``schema``, ``sampling``), their bounds (``setting``), and how they are read (``parse``)."""

from dreambooth_jax.config.adapters import AdapterConfig as AdapterConfig
from dreambooth_jax.config.keeping import CheckpointConfig as CheckpointConfig
from dreambooth_jax.config.keeping import ExportConfig as ExportConfig
from dreambooth_jax.config.objective import ObjectiveConfig as ObjectiveConfig
from dreambooth_jax.config.parse import add_settings as add_settings
from dreambooth_jax.config.parse import keys as keys
from dreambooth_jax.config.parse import load_config as load_config
from dreambooth_jax.config.parse import new_parser as new_parser
from dreambooth_jax.config.parse import parse as parse
from dreambooth_jax.config.parse import save_config as save_config
from dreambooth_jax.config.parse import to_dict as to_dict
from dreambooth_jax.config.sampling import SamplingConfig as SamplingConfig
from dreambooth_jax.config.schema import Config as Config
from dreambooth_jax.config.schema import DataConfig as DataConfig
from dreambooth_jax.config.schema import ModelConfig as ModelConfig
from dreambooth_jax.config.schema import OptimizerConfig as OptimizerConfig
from dreambooth_jax.config.schema import PriorConfig as PriorConfig
from dreambooth_jax.config.schema import SamplesConfig as SamplesConfig
from dreambooth_jax.config.schema import TextEncoderConfig as TextEncoderConfig
from dreambooth_jax.config.schema import TrainConfig as TrainConfig
from dreambooth_jax.config.tokens import TokensConfig as TokensConfig
from dreambooth_jax.config.validation import ValidationConfig as ValidationConfig
