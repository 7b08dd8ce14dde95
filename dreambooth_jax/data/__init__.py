# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""From photos and prompts to batches: nothing here knows the networks."""
