# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What may stand in a text that somebody sends."""

import re

from dreambooth_jax.errors import InputError

_ADAPTER = re.compile(r"<\s*(lora|lyco)\s*:", re.IGNORECASE)
_HIDDEN = re.compile(r"(?=.*<)(?=.*[{\\])", re.DOTALL)
"""Of what is drawn between braces and put together, an adapter may come."""
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
"""What no command line holds."""
LONGEST = 2000
"""Characters of a prompt."""


def check_text(what: str, text: str) -> None:
    """May it be a word of a command line, and names it no file?

    Raises:
        InputError: naming what is wrong of it.
    """
    if len(text) > LONGEST:
        raise InputError(f"{what} has {len(text)} characters: at most {LONGEST}")
    if _NO_TEXT.search(text):
        raise InputError(f"{what} has a sign that is no text")
    if _ADAPTER.search(text):
        raise InputError(f"{what} has <lora:...>, which names a file: leave it out")
    if _HIDDEN.match(text):
        raise InputError(f"{what} has < and a brace or a backslash: leave one of them out")
