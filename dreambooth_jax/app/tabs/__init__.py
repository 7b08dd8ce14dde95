# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The tabs of the page: what stands in each, and what it asks of the desk. None of them knows another."""
