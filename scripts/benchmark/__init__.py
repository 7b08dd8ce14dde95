# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The parts of ``benchmark.py`` and ``benchmark_growth.py``."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # or PyTorch's idle threads spin on the cores that XLA works on
