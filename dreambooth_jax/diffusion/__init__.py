# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The maths of diffusion: schedule, forward process, loss, guidance, samplers. It knows no network."""
