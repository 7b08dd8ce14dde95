# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Docstrings as this package writes them, in the form that griffe reads."""

import re
from typing import Any

import griffe

SEVERAL = re.compile(r"^( +)(\w+(?:, \w+)+): (.*(?:\n\1 +\S.*)*)", re.MULTILINE)
"""``query, key: arrays`` in a list of arguments, with the lines that go on with it."""
ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):`~?([^`]+)`")


def as_griffe_reads_it(text: str) -> str:
    """Arguments that are described together stand one by one; a role of Sphinx is a name in code."""
    return ROLE.sub(r"`\1`", SEVERAL.sub(_one_by_one, text))


def _one_by_one(found: re.Match[str]) -> str:
    indent, names, told = found.groups()
    return "\n".join(f"{indent}{name}: {told}" for name in names.split(", "))


class Docstrings(griffe.Extension):
    """Every docstring, before it is parsed."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring:
            text = as_griffe_reads_it(obj.docstring.value)
            # the help of a setting is no Markdown: brackets are themselves
            obj.docstring.value = text.replace("][", "]\\[") if obj.is_attribute else text
