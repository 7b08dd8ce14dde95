# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How pictures are called: one template for all, or a caption for each.

    "a photo of {identifier} {class_noun}"  +  Subject("sks", "dog")  ->  "a photo of sks dog"

Braces themselves are written ``{{`` and ``}}``. Captions lie beside the pictures (``photo.jpg`` and ``photo.txt``) or
in a table, ``metadata.jsonl`` or ``metadata.csv`` with the columns ``file_name`` and ``text`` or ``caption``, which is
the convention of ``datasets`` for a folder of images. They may use the same fields.
"""

import csv
import difflib
import json
import logging
import posixpath
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from io import StringIO
from pathlib import Path
from typing import Literal

from dreambooth_jax.errors import InputError
from dreambooth_jax.text_files import read_text

log = logging.getLogger(__name__)

METADATA = ("metadata.jsonl", "metadata.csv")
SIDECARS = (".txt", ".TXT", ".Txt")
# Columns that hold a caption; the first that is there.
CAPTION_COLUMNS = ("text", "caption", "prompt")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is learned, in words."""

    identifier: str
    """Rare word that the subject is bound to."""
    class_noun: str
    """What it is: dog, backpack, person. May be empty."""

    def fill(self, template: str, *, syntax: Literal["plain", "a1111"] = "plain") -> str:
        r"""The template with its fields filled in, and runs of white space made one blank.

        Args:
            template: where braces themselves are written ``{{`` and ``}}``; in A1111's syntax ``\{`` and ``\}``, which
                stay what they are, as do braces with a ``|``: these are wildcards.
            syntax: of prompts that are filled in.

        Raises:
            InputError: a field in braces that is none of this class's.
        """
        known = [field.name for field in fields(self)]
        braces = r"\{ and \}" if syntax == "a1111" else "{{ and }}"
        pattern = r"\\.|\{([^{}|\\]*)\}" if syntax == "a1111" else r"\{\{|\}\}|\{([^{}]*)\}"

        def value(match: re.Match[str]) -> str:
            if match[1] is None:
                return match[0] if syntax == "a1111" else match[0][0]
            if match[1] not in known:
                (nearest,) = difflib.get_close_matches(match[1], known, n=1, cutoff=0)
                raise InputError(
                    f"unknown field {match[0]} in {template!r}; did you mean {{{nearest}}}? "
                    f"Braces themselves are written {braces}"
                )
            return getattr(self, match[1])

        return " ".join(re.sub(pattern, value, template, flags=re.DOTALL).split())


def find_caption(row: Mapping[str, object]) -> str | None:
    """The caption in a row of a table, or None where it has none."""
    cells = (row.get(column) for column in CAPTION_COLUMNS)
    return next((cell for cell in cells if isinstance(cell, str) and cell.strip()), None)


def read_sidecar(picture: Path) -> str | None:
    """The text beside a picture; None where there is none or it is blank. Raises InputError if it is not UTF-8."""
    path = next((path for path in map(picture.with_suffix, SIDECARS) if path.is_file()), None)
    return (read_text(path).strip() or None) if path else None


def near_sidecars(folder: Path, pictures: Collection[str]) -> list[tuple[str, str]]:
    """(text, picture) of texts that are nearly called as a picture's caption is: ``A.txt`` or ``a.png.txt``."""
    own = {path.name for name in pictures for path in map((folder / name).with_suffix, SIDECARS)}
    stems = {near.casefold(): name for name in sorted(pictures) for near in (name, Path(name).stem)}
    texts = sorted(path.name for path in folder.iterdir() if path.suffix.lower() == ".txt" and path.name not in own)
    return [(text, stems[stem]) for text in texts if (stem := text[:-4].casefold()) in stems]


def read_metadata(folder: Path) -> dict[str, str | None]:
    """File name (relative to the folder, with forward slashes) -> caption, from the folder's table if it has one.

    Raises:
        InputError: the table is not UTF-8, a line is no JSON object, or a row has no ``file_name``, or one that is
            not in the folder.
    """
    found = {path.name.lower(): path for path in folder.iterdir() if path.is_file()}
    path = next((found[name] for name in METADATA if name in found), None)
    if path is None:
        return {}
    captions: dict[str, str | None] = {}
    columns = set[str]()
    for number, row in _rows(path):
        if not isinstance(row, dict) or not row.get("file_name"):
            raise InputError(f"{path}, line {number}: no file_name; every row names a picture of the folder")
        name = _inside(str(row["file_name"]), where=f"{path}, line {number}")
        if name in captions:
            log.warning("%s, line %d: %s stands here for the second time; this line counts", path, number, name)
        captions[name] = find_caption(row)
        columns.update(map(str, row))
    if columns and columns.isdisjoint(CAPTION_COLUMNS):
        log.warning("%s: no column %s, so no captions; it has %s", path, " or ".join(CAPTION_COLUMNS), sorted(columns))
    return captions


def _inside(name: str, *, where: str) -> str:
    """A path relative to the folder of its table, in the shortest form."""
    path = posixpath.normpath(name.replace("\\", "/"))
    if path.startswith("/") or path.split("/")[0] in ("", ".", "..") or re.match("[A-Za-z]:", path) or "\0" in path:
        raise InputError(f"{where}: file_name {name!r} is not in the folder; name pictures as seen from the table")
    return path


def _rows(path: Path) -> Iterator[tuple[int, object]]:
    """(line number, row) of a JSON-lines or CSV file with a header."""
    text = read_text(path)
    if path.suffix.lower() == ".csv":
        table = csv.DictReader(StringIO(text, newline=""))
        try:
            yield from ((table.line_num, row) for row in table)
        except csv.Error as error:
            raise InputError(f"{path}, line {table.line_num}: no CSV ({error})") from None
        return
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would also split at U+2028 inside a caption
        try:
            if line.strip():
                yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise InputError(f"{path}, line {number}: not JSON ({reason}); write one object per line") from None
