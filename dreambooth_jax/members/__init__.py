# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Several runs that belong together: subjects, or the cells of a sweep. Each is a member, with settings of its own."""

from dreambooth_jax.members.grouping import Grouped as Grouped
from dreambooth_jax.members.grouping import groups as groups
from dreambooth_jax.members.grouping import shares_a_program as shares_a_program
from dreambooth_jax.members.grouping import why_alone as why_alone
from dreambooth_jax.members.member import Member as Member
