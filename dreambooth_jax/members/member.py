# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""One of several runs that belong together."""

from dataclasses import dataclass

from dreambooth_jax.config import Config


@dataclass(frozen=True, kw_only=True)
class Member:
    """One subject, or one cell of a sweep, with its whole configuration.

    Attributes:
        name: of its folder; no other member of the set has it.
        config: as if it were trained alone; ``run_dir`` is its own folder.
    """

    name: str
    config: Config
