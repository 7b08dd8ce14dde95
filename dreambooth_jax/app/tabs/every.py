# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How often tabs look at what runs."""

EVERY = 2.0
"""Seconds between two looks."""
