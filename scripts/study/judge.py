# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The judge, which ships with the embedded model: the verb ``evaluate`` asks it, too."""

from dreambooth_jax.evaluation.judge import NOBODY as NOBODY
from dreambooth_jax.evaluation.judge import SHIPPED as SHIPPED
from dreambooth_jax.evaluation.judge import Judge as Judge
from dreambooth_jax.evaluation.judge import JudgeNetwork as JudgeNetwork
from dreambooth_jax.evaluation.judge import Verdicts as Verdicts
from dreambooth_jax.evaluation.judge import load as load
from dreambooth_jax.evaluation.judge import network as network
