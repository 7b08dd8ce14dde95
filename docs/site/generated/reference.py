# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A page for each room of the package, for mkdocstrings to fill from docstrings."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "dreambooth_jax"
LIBRARIES = ("embedded", "configs")
"""Folders of the package without a room's code."""


def places(root: Path) -> list[tuple[str, str]]:
    """(room, place of its page)"""
    return [(room, f"reference/{room}.md") for room in rooms(root)]


def rooms(root: Path) -> Iterator[str]:
    """Names of the packages and modules in the package."""
    for path in sorted((root / PACKAGE).iterdir()):
        if path.is_dir() and (path / "__init__.py").exists():
            yield path.name
        elif path.suffix == ".py" and not path.stem.startswith("_"):
            yield path.stem


def pages(root: Path) -> dict[str, str]:
    """The pages, by place."""
    return {place: page(root / PACKAGE, room) for room, place in places(root)}


def page(package: Path, room: str) -> str:
    """The page of a room: its idea, then its modules."""
    return "\n\n".join(
        f"::: {PACKAGE}.{name}\n    options: {{show_root_full_path: true, heading_level: {1 if name == room else 2}}}"
        for name in _modules(package, room)
    )


def _modules(package: Path, room: str) -> Iterator[str]:
    """All modules of a room that define something; the room itself says what it is for."""
    yield room
    for path in sorted((package / room).rglob("*.py")):
        if not path.stem.startswith("_") and any(map(_is_public, ast.parse(path.read_text(encoding="utf-8")).body)):
            yield ".".join(path.relative_to(package).with_suffix("").parts)


def _is_public(node: ast.stmt) -> bool:
    return isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
