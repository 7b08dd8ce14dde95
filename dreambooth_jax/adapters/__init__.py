# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is trained, as pairs of pure functions."""

from dreambooth_jax.adapters.base import Adapter as Adapter
from dreambooth_jax.adapters.full import full as full
