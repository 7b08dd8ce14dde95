# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""All verbs. A new one is a file and a line."""

from dreambooth_jax.cli.app import APP
from dreambooth_jax.cli.check import CHECK
from dreambooth_jax.cli.doctor import DOCTOR
from dreambooth_jax.cli.evaluate import EVALUATE
from dreambooth_jax.cli.export import EXPORT
from dreambooth_jax.cli.plan import PLAN
from dreambooth_jax.cli.prior import PRIOR
from dreambooth_jax.cli.sample import SAMPLE
from dreambooth_jax.cli.sweep import SWEEP
from dreambooth_jax.cli.train import TRAIN
from dreambooth_jax.cli.verb import Verb

VERBS: dict[str, Verb] = {
    verb.name: verb for verb in (TRAIN, SWEEP, PRIOR, PLAN, SAMPLE, EVALUATE, DOCTOR, EXPORT, CHECK, APP)
}
