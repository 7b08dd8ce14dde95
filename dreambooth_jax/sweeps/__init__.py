# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Many runs as one: what is to be trained, by which engine, and one overview of what came of it."""
