# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How good runs are: their pictures drawn, measured, compared and shown."""
