# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A sweep as a file of settings has it: under ``sweep`` what is varied, and beside it settings of all members.

sweep:
  optimizer.learning_rate: [1e-6, 3e-6]      a setting and its values
  experiment:                                a word, and groups of settings by name
    no prior: {prior.weight: 0}
    late text encoder: {text_encoder.start: 1600, text_encoder.stop: -1, train.steps: 1800}
optimizer: {kind: lion}
"""

from collections.abc import Mapping
from typing import Any

from dreambooth_jax.config import Config
from dreambooth_jax.config.files import SWEEP as SWEEP
from dreambooth_jax.config.parse import check_known, key_types
from dreambooth_jax.errors import InputError
from dreambooth_jax.members.axes import Axis, Choice, axis_of, flat_settings, text_of


def listed_axes(listed: Any, *, name: str) -> list[Axis]:
    """The axes of a file.

    Args:
        listed: what stands under ``sweep``.
        name: of the file.

    Raises:
        InputError: if it is no such thing.
    """
    if not isinstance(listed, Mapping) or not listed:
        raise InputError(f"{name}: under {SWEEP} stands what is varied, such as train.seed: [0, 1, 2]")
    return [_axis(str(key), value, name=name) for key, value in listed.items()]


def _axis(key: str, value: Any, *, name: str) -> Axis:
    if isinstance(value, Mapping) and value and all(isinstance(one, Mapping) for one in value.values()):
        if key in key_types(Config):
            raise InputError(f"{name}: {SWEEP}.{key} is a setting: give it a list of values")
        return Axis(key, tuple(Choice(str(text), tuple(settings_beside(one))) for text, one in value.items()))
    if not isinstance(value, list) or not value:
        raise InputError(f"{name}: {SWEEP}.{key} is no list of values: write {key}: [VALUE, VALUE]")
    if key not in key_types(Config):
        check_known(key, list(key_types(Config)))
    return axis_of(key, [text_of(key, one) for one in value])


def settings_beside(settings: Mapping[Any, Any]) -> list[str]:
    """Settings, but for the sweep, as a command line has them."""
    return [
        f"--{key}={text_of(key, value)}" for key, value in flat_settings(settings) if key.partition(".")[0] != SWEEP
    ]
