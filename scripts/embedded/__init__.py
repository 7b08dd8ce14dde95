# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How the embedded model is pretrained: sprites -> pictures -> tokenizer -> autoencoder -> denoiser -> folder."""
