# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Pictures of a data set: of the Hugging Face hub, or of a folder of Parquet files."""

from collections.abc import Iterator
from pathlib import Path

from dreambooth_jax.data import prompts
from dreambooth_jax.errors import InputError

# Name, file or its bytes, caption.
Found = tuple[str, Path | bytes, str | None]


def from_data_set(path: str, config: str | None = None, *, folder: Path | None = None) -> Iterator[Found]:
    """Rows of a data set: its first column of pictures, its caption column, its train split or else its first.

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
    captions = [name for name in prompts.CAPTION_COLUMNS if name in rows.column_names]
    rows = rows.select_columns([column, *captions]).cast_column(column, datasets.Image(decode=False))
    for number, row in enumerate(rows):
        cell = row[column] or {"bytes": None, "path": None}
        name = Path(cell["path"]).name if cell["path"] else f"{number:05d}"
        file = Path(cell["path"]) if cell["path"] and not cell["bytes"] else cell["bytes"] or b""
        if folder is not None and isinstance(file, Path):
            file = (folder / file).resolve()
            if not file.is_relative_to(folder.resolve()):
                raise InputError(f"{path}, row {number}: the picture {cell['path']!r} is not in the folder")
        yield name, file, prompts.find_caption(row)
