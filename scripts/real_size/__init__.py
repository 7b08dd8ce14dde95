# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The stages of ``real_size.py``: each runs in a process of its own."""
