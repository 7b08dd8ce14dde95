# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is computed once, before the first step: class images, VAE moments, text states."""
