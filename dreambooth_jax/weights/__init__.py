# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Pretrained weights: names of every dialect, files of every format, folders in the diffusers layout."""
