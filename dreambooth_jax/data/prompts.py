# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How pictures are called: one template for all, or a caption for each.

    "a photo of {identifier} {class_noun}"  +  Subject("sks", "dog")  ->  "a photo of sks dog"

Captions lie beside the pictures (``photo.jpg`` and ``photo.txt``) or in a table, ``metadata.jsonl`` or
``metadata.csv`` with the columns ``file_name`` and ``text`` or ``caption``, which is the convention of ``datasets``
for a folder of images. They may use the same fields.
"""

import csv
import difflib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from io import StringIO
from pathlib import Path

from dreambooth_jax.errors import InputError

log = logging.getLogger(__name__)

METADATA = ("metadata.jsonl", "metadata.csv")
# Columns that hold a caption; the first that is there.
CAPTION_COLUMNS = ("text", "caption", "prompt")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is learned, in words."""

    identifier: str
    """Rare word that the subject is bound to."""
    class_noun: str
    """What it is: dog, backpack, person. May be empty."""

    def fill(self, template: str) -> str:
        """The template with its fields filled in and runs of white space made one blank.

        Raises:
            InputError: a field in braces that is none of this class's.
        """
        known = [field.name for field in fields(self)]

        def value(match: re.Match[str]) -> str:
            if match[1] not in known:
                (nearest,) = difflib.get_close_matches(match[1], known, n=1, cutoff=0)
                raise InputError(f"unknown field {match[0]} in {template!r}; did you mean {{{nearest}}}?")
            return getattr(self, match[1])

        return " ".join(re.sub(r"\{([^{}]*)\}", value, template).split())


def find_caption(row: Mapping[str, object]) -> str | None:
    """The caption in a row of a table, or None where it has none."""
    cells = (row.get(column) for column in CAPTION_COLUMNS)
    return next((cell for cell in cells if isinstance(cell, str) and cell.strip()), None)


def read_sidecar(picture: Path) -> str | None:
    """The text beside a picture; None where there is none or it is blank. Raises InputError if it is not UTF-8."""
    path = picture.with_suffix(".txt")
    return (_read(path).strip() or None) if path.is_file() else None


def read_metadata(folder: Path) -> dict[str, str | None]:
    """File name (relative to the folder, with forward slashes) -> caption, from the folder's table if it has one.

    Raises:
        InputError: the table is not UTF-8, a line is no JSON object, or a row has no ``file_name``.
    """
    path = next((folder / name for name in METADATA if (folder / name).is_file()), None)
    if path is None:
        return {}
    captions, columns = {}, set[str]()
    for number, row in _rows(path):
        if not isinstance(row, dict) or not row.get("file_name"):
            raise InputError(f"{path}, line {number}: no file_name; every row names a picture of the folder")
        captions[Path(str(row["file_name"])).as_posix()] = find_caption(row)
        columns.update(map(str, row))
    if columns and columns.isdisjoint(CAPTION_COLUMNS):
        log.warning("%s: no column %s, so no captions; it has %s", path, " or ".join(CAPTION_COLUMNS), sorted(columns))
    return captions


def _rows(path: Path) -> Iterator[tuple[int, object]]:
    """(line number, row) of a JSON-lines or CSV file with a header."""
    text = _read(path)
    if path.suffix == ".csv":
        table = csv.DictReader(StringIO(text, newline=""))
        yield from ((table.line_num, row) for row in table)
        return
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would also split at U+2028 inside a caption
        try:
            if line.strip():
                yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not JSON ({error.msg}); write one object per line") from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text; save it as UTF-8") from None
