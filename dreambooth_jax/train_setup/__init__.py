# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The steps of a run, put together from its config and a model: what ``trainer/`` runs and ``planning/`` measures.

    config, model -> adapter -> groups -> phases -> for each set of trained groups one step, mapped over the devices

Of the model only modules and shapes are used. Phases that train the same groups share their step. What is put together
knows no config.
"""

from dreambooth_jax.train_setup.build import build_train_setup as build_train_setup
from dreambooth_jax.train_setup.build import mapper_of as mapper_of
from dreambooth_jax.train_setup.networks import Groups as Groups
from dreambooth_jax.train_setup.setup import TrainSetup as TrainSetup
