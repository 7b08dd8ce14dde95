# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A setting of the program as a field of the page: its choices, bounds and help are the program's own."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

import gradio as gr

from dreambooth_jax.cli.pages import entries_of
from dreambooth_jax.config.setting import rules_of
from dreambooth_jax.errors import InputError

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
    kinds = _kinds(option)
    choices = rules.one_of or next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())
    if choices:
        return gr.Dropdown([AS_USUAL, *((choice, choice) for choice in choices)], value="", **about)
    if bool in kinds:
        return gr.Checkbox(**about)
    if _is_number(kinds):  # no gr.Number: of an empty one the browser makes 0, and sends that
        about = {"placeholder": AS_USUAL[0], **about}
    return gr.Textbox(**about)


def told_by(settings: type, name: str, value: Any) -> Any:
    """A setting as its field tells it; None where it tells nothing. Bounds are checked with those of all others.

    Args:
        settings: the class that has it.
        name: of it.
        value: of the field.

    Raises:
        InputError: if it must be a number, and is none.
    """
    if value is None or value is False or value == "":
        return None
    if isinstance(value, str) and _is_number(_kinds(_entries(settings)[name][0])):
        try:
            value = float(value)
        except ValueError:
            raise InputError(f"{name} = {value[:40]!r}: must be a number") from None
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_number(kinds: Sequence[Any]) -> bool:
    return int in kinds or float in kinds


def _kinds(option: Any) -> tuple[Any, ...]:
    return (option.kind, *get_args(option.kind))


def _entries(settings: type) -> Mapping[str, Any]:
    return dict(entries_of(settings))
