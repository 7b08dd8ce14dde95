# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What came of a member."""

from dataclasses import dataclass

from dreambooth_jax.trainer.result import RunResult


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What :func:`~dreambooth_jax.trainer.members.run_group` says of a member.

    Attributes:
        name: of the member.
        result: what is in its folder, as if it had been trained alone.
        stopped: why it was stopped before its end, or not begun, such as "loss is nan at step 3"; empty where it was
            not.
    """

    name: str
    result: RunResult
    stopped: str = ""
