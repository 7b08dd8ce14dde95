# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is wrong with a run: photos, words, settings and pictures, and for each finding the one thing to change."""
