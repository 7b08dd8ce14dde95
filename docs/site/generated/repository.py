# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Files of the repository that pages point to, as pages of the site.

The README is its first page; Markdown elsewhere, settings, code and folders of these are pages in ``repository/``.
"""

import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

DOCS, HOME, ELSEWHERE = "docs", "README.md", "repository"
LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")
PICTURES = {".png", ".jpg"}
LANGUAGES = {".py": "python", ".yaml": "yaml", ".sh": "bash", ".sbatch": "bash"}


class Repository:
    """The repository, as the site shows it.

    Args:
        root: its folder.
    """

    def __init__(self, root: Path):
        self.root = root

    def pages(self) -> dict[str, str | bytes]:
        """The content of each page outside of ``docs/``, by its place."""
        return {self.place(name): self._content(name) for name in self._linked}

    def place(self, name: str) -> str:
        """Where the site has a file: ``configs/sd15.yaml`` is at ``repository/configs/sd15.yaml.md``."""
        if name == HOME:
            return "index.md"
        if name.startswith(f"{DOCS}/"):
            return name.removeprefix(f"{DOCS}/")
        shown_as_it_is = PurePosixPath(name).suffix in {".md", *PICTURES}
        return f"{ELSEWHERE}/{name}{'' if shown_as_it_is else '.md'}"

    def as_links_of_the_site(self, markdown: str, place: str) -> str:
        """A page's text with its links as the site needs them; those to what is not there stay, for the build to
        refuse."""
        origin = self._origins.get(place, f"{DOCS}/{place}")

        def link(found: re.Match[str]) -> str:
            name = self._target(origin, found[1])
            return os.path.relpath(self.place(name), os.path.dirname(place)) if name else found[1]

        return LINK.sub(link, markdown)

    @cached_property
    def _origins(self) -> dict[str, str]:
        return {self.place(name): name for name in self._linked}

    @cached_property
    def _linked(self) -> list[str]:
        """The README, and what it and others link to outside of ``docs/``, at once or by way of each other."""
        found = {HOME: None}
        todo = [HOME, *(f"{DOCS}/{path.name}" for path in sorted((self.root / DOCS).glob("*.md")))]
        while todo:
            for name in self._targets(todo.pop()):
                if name not in found and not name.startswith(f"{DOCS}/"):
                    found[name] = None
                    todo.append(name)
        return list(found)

    def _targets(self, name: str) -> Iterator[str]:
        if name.endswith(".md"):
            names = (self._target(name, link) for link in LINK.findall((self.root / name).read_text(encoding="utf-8")))
            yield from filter(None, names)

    def _target(self, origin: str, link: str) -> str | None:
        """What a link of a file means, from the root; None if that is not there."""
        name = os.path.normpath(os.path.join(os.path.dirname(origin), link))
        return name if not name.startswith("..") and (self.root / name).exists() else None

    def _content(self, name: str) -> str | bytes:
        path = self.root / name
        if path.suffix in PICTURES:
            return path.read_bytes()
        if path.suffix == ".md":
            return path.read_text(encoding="utf-8")
        files = sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else [path]
        parts = [f"# `{name}`"]
        for file in files:
            heading = [f"## `{file.name}`"] if path.is_dir() else []
            parts += [*heading, fenced(file.read_text(encoding="utf-8"), LANGUAGES.get(file.suffix, "text"))]
        return "\n\n".join(parts)


def fenced(text: str, language: str) -> str:
    """A block of code; longer fences than any within it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
