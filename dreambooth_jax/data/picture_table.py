# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A folder's table of its pictures: what each is called, and how much its loss counts.

    {"file_name": "a.png", "text": "a photo of {identifier} {class_noun} asleep", "weight": 2}

It is ``metadata.jsonl`` or ``metadata.csv`` with a column ``file_name``, which is the convention of ``datasets`` for a
folder of images. A picture without a weight has 1.
"""

import csv
import json
import logging
import posixpath
import re
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from dreambooth_jax.errors import InputError
from dreambooth_jax.text_files import read_text

log = logging.getLogger(__name__)

METADATA = ("metadata.jsonl", "metadata.csv")
# Columns that hold a caption; the first that is there.
CAPTION_COLUMNS = ("text", "caption", "prompt")
WEIGHT_COLUMN = "weight"
LARGEST_WEIGHT = 10_000


class Entry(NamedTuple):
    """What a table says of a picture."""

    caption: str | None
    weight: float = 1.0


def find_caption(row: Mapping[str, object]) -> str | None:
    """The caption in a row of a table, or None where it has none."""
    cells = (row.get(column) for column in CAPTION_COLUMNS)
    return next((cell for cell in cells if isinstance(cell, str) and cell.strip()), None)


def find_weight(row: Mapping[str, object], *, where: str) -> float:
    """The weight in a row of a table, 1 where it has none: a number of at least 0.

    Raises:
        InputError: naming ``where`` it stands, if it is anything else.
    """
    cell = row.get(WEIGHT_COLUMN)
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return 1.0
    try:
        weight = float(cell) if isinstance(cell, int | float | str) and not isinstance(cell, bool) else -1.0
    except (ValueError, OverflowError):
        weight = -1.0
    if not 0 <= weight <= LARGEST_WEIGHT:
        raise InputError(
            f"{where}: weight is {cell!r}: must be a number from 0 to {LARGEST_WEIGHT}, where 1 is as usual"
        )
    return weight


def read_metadata(folder: Path) -> dict[str, Entry]:
    """File name (relative to the folder, with forward slashes) -> entry, from the folder's table if it has one.

    Raises:
        InputError: the table is not UTF-8, a line is no JSON object, or a row has no ``file_name``, one outside of
            the folder, or a weight that is none. That the pictures are there is not asked.
    """
    found = {path.name.lower(): path for path in folder.iterdir() if path.is_file()}
    path = next((found[name] for name in METADATA if name in found), None)
    if path is None:
        return {}
    entries: dict[str, Entry] = {}
    columns = set[str]()
    for number, row in _rows(path):
        where = f"{path}, line {number}"
        if not isinstance(row, dict) or not row.get("file_name"):
            raise InputError(f"{where}: no file_name; every row names a picture of the folder")
        name = _inside(str(row["file_name"]), where=where)
        if name in entries:
            log.warning("%s, line %d: %s stands here for the second time; this line counts", path, number, name)
        entries[name] = Entry(caption=find_caption(row), weight=find_weight(row, where=where))
        columns.update(map(str, row))
    if columns and columns.isdisjoint({*CAPTION_COLUMNS, WEIGHT_COLUMN}):
        log.warning("%s: no column %s, so no captions; it has %s", path, " or ".join(CAPTION_COLUMNS), sorted(columns))
    return entries


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
