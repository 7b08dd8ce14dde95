# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The version, readable without importing jax."""

__version__ = "0.1.0"
