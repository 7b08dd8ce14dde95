# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def run(script, *arguments):
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS.parent)}
    return subprocess.run(
        [sys.executable, str(script), *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("path", sorted(SCRIPTS.rglob("*.py")), ids=lambda path: str(path.relative_to(SCRIPTS)))
def test_every_script_parses_is_documented_and_small(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text))
    assert text.count("\n") <= 320


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.name)
def test_every_script_says_what_it_is_for(path):
    ended = run(path, "--help")
    assert ended.returncode == 0, ended.stderr
    assert "usage" in ended.stdout


def test_the_benchmark_runs_without_peers(tmp_path):
    out = tmp_path / "report.json"
    ended = run(
        SCRIPTS / "benchmark.py",
        *("--size", "tiny", "--batch", "1", "--steps", "2", "--repeats", "1", "--peers", "ours", "--out", str(out)),
    )
    assert ended.returncode == 0, ended.stderr
    report = json.loads(out.read_text())
    assert [row["work"] for row in report["rows"]] == ["train_step", "ddim"]
    assert report["rows"][0]["flops"] > 0
    assert all(row["median"] > 0 for row in report["rows"])
