# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Pictures of a data set: of the Hugging Face hub, or of a folder of Parquet files."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dreambooth_jax.data import picture_table
from dreambooth_jax.errors import InputError


class Found(NamedTuple):
    """A picture of a source."""

    name: str
    file: Path | bytes
    caption: str | None
    weight: float = 1.0


def from_data_set(path: str, config: str | None = None, *, folder: Path | None = None) -> Iterator[Found]:
    """Rows of a data set: its first column of pictures, captions and weights; of its train split, or else its first.

    Of a local ``folder``, rows may name files in it, but no others.
    """
    import datasets  # late: takes seconds, and most sources are plain folders

    try:
        splits = datasets.load_dataset(path, config)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"{path}: neither a folder nor a data set that could be loaded ({reason})") from error
    rows = splits["train"] if "train" in splits else next(iter(splits.values()))
    column = next((name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)), None)
    if column is None:
        raise InputError(f"{path}: no column of pictures; it has {', '.join(rows.column_names)}")
    told = (*picture_table.CAPTION_COLUMNS, picture_table.WEIGHT_COLUMN)
    chosen = [column, *(name for name in told if name in rows.column_names)]
    rows = rows.select_columns(chosen).cast_column(column, datasets.Image(decode=False))
    for number, row in enumerate(rows):
        cell = row[column] or {"bytes": None, "path": None}
        name = Path(cell["path"]).name if cell["path"] else f"{number:05d}"
        file = Path(cell["path"]) if cell["path"] and not cell["bytes"] else cell["bytes"] or b""
        if folder is not None and isinstance(file, Path):
            file = (folder / file).resolve()
            if not file.is_relative_to(folder.resolve()):
                raise InputError(f"{path}, row {number}: the picture {cell['path']!r} is not in the folder")
        weight = picture_table.find_weight(row, where=f"{path}, row {number}")
        yield Found(name, file, picture_table.find_caption(row), weight)
