# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Notebooks as pages: their text, and their code as it stands there."""

import json
from pathlib import Path

from generated.repository import fenced

FOLDER = "notebooks"


def pages(root: Path) -> dict[str, str]:
    """The pages, by place, each beside its notebook."""
    return {f"{FOLDER}/{path.stem}.md": page(path) for path in sorted((root / "docs" / FOLDER).glob("*.ipynb"))}


def page(path: Path) -> str:
    """The page of a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = [
        "".join(cell["source"]) if cell["cell_type"] == "markdown" else fenced("".join(cell["source"]), "python")
        for cell in cells
    ]
    heading, *rest = parts
    return (
        "\n\n".join([heading, f"[The notebook itself]({path.name}), to open in Colab, Kaggle or Jupyter.", *rest])
        + "\n"
    )
