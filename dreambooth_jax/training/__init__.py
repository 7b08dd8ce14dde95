# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The pure training step, its optimizer and state, and how they are mapped over devices and kept on disk."""
