# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Members who cannot begin are named and left out, and the others go on."""

from collections.abc import Iterator
from contextlib import contextmanager

from dreambooth_jax import distributed
from dreambooth_jax.errors import InputError
from dreambooth_jax.prepare.multihost import VISIBLE_WITHIN


class Faults(dict[str, str]):
    """Why members cannot begin, by their names."""

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """What is done for one member: an InputError is its own, and none of the others'.

        Raises:
            InputError: of a process that failed alone. It ends, since the others are not where it is.
        """
        try:
            yield
        except InputError as error:
            if not distributed.all_are_here(within=VISIBLE_WITHIN):
                raise
            self[name] = str(error)
