# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What pictures say of how they were made: ours, and what other tools write."""
