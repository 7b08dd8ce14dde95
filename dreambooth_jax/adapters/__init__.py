# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is trained, as pairs of pure functions."""

from dreambooth_jax.adapters.base import Adapter as Adapter
from dreambooth_jax.adapters.base import part_for as part_for
from dreambooth_jax.adapters.composed import composed as composed
from dreambooth_jax.adapters.composed import passed_on as passed_on
from dreambooth_jax.adapters.full import full as full
from dreambooth_jax.adapters.join import join as join
from dreambooth_jax.adapters.lora import lora as lora
from dreambooth_jax.adapters.registry import make_adapter as make_adapter
from dreambooth_jax.adapters.teacher import TEACHER as TEACHER
from dreambooth_jax.adapters.teacher import with_teacher as with_teacher
