# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What comes of something, or why nothing does."""

from collections.abc import Callable
from html import escape

import gradio as gr

from dreambooth_jax.app.progress import placeless
from dreambooth_jax.errors import InputError


def attempt(do: Callable[[], str]) -> str:
    """The words of ``do``, or of its ``InputError``, without folders of the server."""
    try:
        return do()
    except InputError as error:
        return placeless(str(error))


def press(do: Callable[[], str]) -> str:
    """As ``attempt``, of a button whose box follows what runs, and takes the words away again."""
    try:
        return do()
    except InputError as error:
        return refused(error)


def refused(error: InputError) -> str:
    """Why something was not done: in these words, and in a notice that stays until it is closed."""
    text = placeless(str(error))
    gr.Warning(escape(text), duration=None)
    return text
