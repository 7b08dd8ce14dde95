# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""One training step, several devices: replicated (pmap) or sharded (fsdp), with equal results; or members over them."""

from dreambooth_jax.training.parallel.choose import check_divisible, make_mapper
from dreambooth_jax.training.parallel.mapper import MappedStep, Mapper, Step
from dreambooth_jax.training.parallel.members import MemberMapper, make_member_mapper
from dreambooth_jax.training.parallel.replicated import Replicated
from dreambooth_jax.training.parallel.sharded import Sharded

__all__ = [
    "MappedStep",
    "Mapper",
    "MemberMapper",
    "Replicated",
    "Sharded",
    "Step",
    "check_divisible",
    "make_mapper",
    "make_member_mapper",
]
