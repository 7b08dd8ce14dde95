# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Several runs at once: members whose steps one program takes, each with its own folder in the end."""

from dreambooth_jax.trainer.members.outcome import Outcome as Outcome
from dreambooth_jax.trainer.members.run import run_group as run_group
