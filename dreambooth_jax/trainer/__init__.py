# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A whole run, and the only place where everything meets."""

from dreambooth_jax.trainer.result import RunResult as RunResult
from dreambooth_jax.trainer.run import train as train
