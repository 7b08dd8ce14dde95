# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The one exception that means "the input is wrong", as opposed to "we are"."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Wrong input. The message names the thing, its value and the way out, on one line where it can.

    The command line prints it without a traceback and exits with code 2.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that is none: ``; did you mean adamw?``, or nothing where none is near."""
    names = {one.casefold(): one for one in known}
    near = difflib.get_close_matches(name.casefold(), names, n=1)
    return f"; did you mean {names[near[0]]}?" if near else ""
