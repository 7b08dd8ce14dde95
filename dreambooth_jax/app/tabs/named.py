# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Handlers with many inputs, each of which a program can tell by its name or leave out."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr


def named(function: Callable[[dict[str, Any], gr.Request], Any], names: Sequence[str]) -> Callable[..., Any]:
    """A handler for Gradio whose inputs have these names.

    Args:
        function: of name -> value, and the request.
        names: of the inputs, in their order.
    """

    def handler(*values: Any) -> Any:
        return function(dict(zip(names, values)), values[-1])

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind, default=None) for name in names]
    asked_by = inspect.Parameter("request", kind, default=None, annotation=gr.Request)
    handler.__signature__ = inspect.Signature([*parameters, asked_by])  # type: ignore[attr-defined]
    handler.__annotations__ = {"request": gr.Request}
    return handler
