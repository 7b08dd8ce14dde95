# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import json
import os
import stat
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from measure_gpu import command, parts, process, table
from measure_gpu.parts import OURS, PARTS, SCALES, SHARES, Row
from measure_gpu.process import NO_MEMORY, Place

SCRIPT = Path(__file__).parents[2] / "scripts" / "measure_gpu.sh"


def script(*arguments, **environment):
    environment = os.environ | {"PYTHON": sys.executable, "TORCHDYNAMO_DISABLE": "1"} | environment
    return subprocess.run(
        [str(SCRIPT), *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def place(tmp_path):
    """Its interpreter is a script that gets the words of a row's process, as write_program says."""
    (tmp_path / "model-tiny").mkdir()
    program = str(tmp_path / "python")
    return Place(out=tmp_path, size="tiny", pythons={OURS: program, "torch": program})


def write_program(place, text):
    """$8 is where the result belongs."""
    path = Path(place.pythons[OURS])
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def row(**changes):
    return Row(**{"name": "it", "task": "step", "arguments": {"batch": 1, "remat": "nothing"}} | changes)


def test_the_script_says_what_it_is_for():
    ended = script("--help")
    assert ended.returncode == 0, ended.stderr
    assert all(part in ended.stdout for part in PARTS)
    assert script("nothing").returncode == 2


def test_all_parts_together_take_less_than_25_minutes():
    assert SHARES.keys() == PARTS.keys()
    assert sum(SHARES.values()) < 25 * 60
    assert command.PART_SECONDS < 9 * 60


@pytest.mark.parametrize("size", SCALES)
def test_rows_have_names_of_their_own(size):
    for make in PARTS.values():
        rows = list(make(SCALES[size]))
        assert rows
        assert len({row.name for row in rows}) == len(rows)
        assert all(row.limit < command.PART_SECONDS for row in rows)


def test_a_row_is_what_its_process_wrote(place):
    write_program(place, """echo '{"median": 2.0}' > "$8" """)
    found = process.measure_row(place, row(), "ours", 60)
    assert found["wall"] < 60
    assert {**found, "wall": 0} == {
        "peer": OURS, "task": "step", "batch": 1, "remat": "nothing", "median": 2.0, "wall": 0,
    }  # fmt: skip


def test_what_does_not_fit_is_tried_otherwise_and_then_written_down(place):
    write_program(
        place, """case "$*" in *blocks*) echo '{"median": 1.0}' > "$8";; *) echo RESOURCE_EXHAUSTED; exit 1;; esac"""
    )
    assert process.measure_row(place, row(), "ours", 60)["failed"] == NO_MEMORY
    assert process.measure_row(place, row(otherwise={"remat": "blocks"}), "ours", 60)["remat"] == "blocks"


def test_what_fails_says_why(place):
    write_program(place, "echo 'ModuleNotFoundError: torch'; exit 3")
    found = process.measure_row(place, row(), "eager", 60)
    assert found["failed"] == "exit code 3: ModuleNotFoundError: torch"
    assert not process.is_final(found)


def test_what_takes_too_long_is_ended_with_its_children(place):
    write_program(place, f"sleep 60 & echo $! > {place.out}/child; wait")
    begin = time.monotonic()
    found = process.measure_row(place, row(limit=1.0), "ours", 60)
    assert time.monotonic() - begin < 30
    assert found["failed"] == "more than 1 s"
    assert process.is_final(found)
    child = Path(f"/proc/{(place.out / 'child').read_text().strip()}/stat")
    end = time.monotonic() + 10  # a killed process needs a moment
    while child.exists() and child.read_text().split()[2] != "Z":
        assert time.monotonic() < end, "it still runs"
        time.sleep(0.05)
    assert process.measure_row(place, row(limit=50.0), "ours", 1.0) is None  # it had less time than it may have


def test_a_part_goes_on_with_what_is_missing(place, monkeypatch, capsys):
    done = []

    def measure_row(place, row, part, seconds):
        done.append(row.name)
        if row.name == "deterministic" and done.count(row.name) == 1:
            return {"task": "train", "failed": "exit code 1: a bug", "wall": 1.0}
        return None if len(done) == 4 else {"task": "train", "median": 1.0, "wall": 1.0}

    monkeypatch.setattr(command, "measure_row", measure_row)
    assert not command.measure_part(place, "training", 60)
    assert "no time is left for it, nor for bfloat16 again" in capsys.readouterr().out
    assert command.measure_part(place, "training", 60)
    names = [row.name for row in PARTS["training"](SCALES["tiny"])]
    assert done == [*names[:4], "deterministic", *names[3:]]
    assert command.measure_part(place, "training", 60)
    assert len(done) == 7  # nothing is done twice
    assert set(json.loads((place.out / "training.json").read_text())["rows"]) == set(names)


def step_row(batch, seconds, **more):
    return {
        "task": "step", "batch": batch, "remat": "nothing", "median": seconds, "flops": 1e12, "trace": 1.0,
        "compile": 2.0, "predicted_bytes": 9e9, "reported_bytes": 10e9, "loaded_bytes": 8e9,
    } | more  # fmt: skip


def test_the_table_compares_and_knows_the_bars():
    text = table.report(
        {
            "ours": {"1+1": step_row(1, 0.1), "4+4": step_row(4, 0.05), "32+32": {"task": "step", "failed": NO_MEMORY}},
            "compile": {"1+1": step_row(1, 0.12), "4+4": step_row(4, 0.1, remat="blocks")},
            "training": {
                parts.USUAL: {"task": "train", "median": 1.0, "losses": [1.0, 2.0], "digest": "a"},
                "deterministic": {"task": "train", "median": 1.5, "losses": [1.0, 2.2], "digest": "b"},
                "deterministic again": {"task": "train", "median": 1.5, "losses": [1.0, 2.2], "digest": "b"},
            },
        }
    )
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines()}
    assert " | 1.20 | 1 + 2 |" in lines["1+1"]
    assert lines["32+32"].count(NO_MEMORY) == 1
    assert lines["4+4, images/s"].endswith("| 160.0 | yes |")
    assert lines["1+1, times as fast as torch.compile"].endswith("| 1.20 | no |")
    assert lines["4+4"].endswith("|  |  | 1 + 2 |")  # PyTorch computed activations again: not the same work
    assert lines["step 1+1"].endswith("| 9.0 | 10.0 | 0.900 |")
    assert lines["deterministic"].endswith("| 1.50 | 2.20000 | 5.0e-02 | 1.0e-01 |  |")
    assert lines["deterministic again"].endswith("| yes |")


def test_the_table_has_subjects_per_hour():
    rows = {
        "16 members": {
            "task": "members", "count": 16, "steps": 800, "remat": "blocks", "median": 1.0, "reported_bytes": 9e9,
            "subjects_per_hour": 72.0, "subjects_per_hour_with_compiling": 64.04,
        },
        "4 members": {"task": "members", "count": 4, "steps": 800, "remat": "nothing", "failed": NO_MEMORY},
    }  # fmt: skip
    lines = table.report({"members": rows}).splitlines()
    assert "subjects an hour, 800 steps each | compiling included" in lines[0]
    assert lines[2].startswith("| 4 | ")
    assert NO_MEMORY in lines[2]
    assert lines[3] == "| 16 (remat) | 1.0000 | 72.0 | 64.0 | 9.0 |"


def test_a_table_of_nothing_is_empty():
    assert table.report({}) == ""


@pytest.mark.slow
def test_parts_are_measured_on_a_tiny_model(tmp_path):
    """All but ``training``: five runs more of what ``whole`` runs; ``test_deterministic.py`` has their laws."""
    with_torch = bool(find_spec("torch") and find_spec("diffusers"))
    found = {}
    for part in (part for part in PARTS if part != "training"):
        ended = script(part, tmp_path, "--size", "tiny", "--seconds", "900")
        found[part] = rows = json.loads((tmp_path / f"{part}.json").read_text())["rows"]
        assert list(rows) == [row.name for row in PARTS[part](SCALES["tiny"])]
        failed = [row for row in rows.values() if "failed" in row]
        assert ended.returncode == (1 if failed else 0), ended.stdout + ended.stderr
        assert all(row["peer"] != OURS and not with_torch for row in failed), failed
        assert (tmp_path / "table.md").read_text() in ended.stdout
    (some,) = found["members"].values()
    assert some["subjects_per_hour"] == pytest.approx(3600 * 2 / (4 * some["median"]))
    assert some["subjects_per_hour_with_compiling"] < some["subjects_per_hour"]
    stages = found["whole"]["whole"]["stages"]
    assert all(seconds >= 0 for seconds in stages.values())
    assert sum(stages.values()) == pytest.approx(found["whole"]["whole"]["seconds"])
    assert found["whole"]["whole"]["predicted_bytes"] > 0
    before = (tmp_path / "ours.json").read_text()
    assert script("ours", tmp_path, "--size", "tiny").returncode == 0
    assert before == (tmp_path / "ours.json").read_text()
