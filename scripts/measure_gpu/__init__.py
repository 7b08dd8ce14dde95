# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The parts of ``measure_gpu.sh``."""
