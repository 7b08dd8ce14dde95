# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The notebook, from its first cell to the last, with the embedded model and few steps."""

import os
import sys
from pathlib import Path

import pytest

from tests.docs.texts import ROOT

pytestmark = pytest.mark.slow

FEW = (
    "train.steps=2 train.batch_size=1 prior.weight=0 samples.steps=2 samples.num_images=1 samples.class_prompts=[] "
    "text_encoder.stop=0 adapter.targets=[attn-only]"
)


def test_it_runs(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="needs the extra site")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra site")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "docs" / "notebooks" / "dreambooth.ipynb", as_version=4)
    nbformat.validate(notebook)
    (place,) = (n for n, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    notebook.cells.insert(
        place + 1, nbformat.v4.new_code_cell(f'settings = "{FEW}"\nprompts, doctor = prompts[:1], "draw=false"')
    )

    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()

    assert (tmp_path / "run" / "samples" / "before_after.png").exists()
    assert (tmp_path / "alien.safetensors").stat().st_size > 10_000
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 3  # photos, before and after, compared
    text = "".join(output.get("text", "") for output in outputs)
    assert "alien.safetensors" in text
    assert "ComfyUI" in text
