# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A setting of the program as a field of the page: its choices, bounds and help are the program's own."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

import gradio as gr

from dreambooth_jax.cli.pages import entries_of
from dreambooth_jax.config.setting import rules_of

AS_USUAL = ("as usual", "")
"""What is chosen where nothing is told."""


def field_of(settings: type, name: str, *, label: str | None = None, **given: Any) -> gr.components.Component:
    """The field of a setting; empty, it tells nothing.

    Args:
        settings: the class that has it.
        name: of it.
        label: what is written beside it; by default its name.
        given: more of the component.
    """
    option, _ = _entries(settings)[name]
    rules = rules_of({field.name: field for field in dataclasses.fields(settings)}[name])
    about: dict[str, Any] = {"label": label or name.replace("_", " ").capitalize(), "info": option.help, **given}
    kinds = (option.kind, *get_args(option.kind))
    choices = rules.one_of or next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())
    if choices:
        return gr.Dropdown([AS_USUAL, *((choice, choice) for choice in choices)], value="", **about)
    if bool in kinds:
        return gr.Checkbox(**about)
    if int in kinds or float in kinds:
        whole = int in kinds  # bounds are checked with all others, for a line of the same kind
        return gr.Number(precision=0 if whole else None, step=1 if whole else 0.1, **about)
    return gr.Textbox(**about)


def _entries(settings: type) -> Mapping[str, Any]:
    return dict(entries_of(settings))
