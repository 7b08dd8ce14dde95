# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import fcntl
import subprocess
import sys

import pytest

from dreambooth_jax.errors import InputError
from dreambooth_jax.locks import FILE, locked

HOLD = "import sys, time; from pathlib import Path; from dreambooth_jax.locks import locked\n"
HOLD += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(100)"


def test_another_process_is_refused_until_the_holder_is_killed(tmp_path):
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=rf"run is in use by another run \(process {holder.pid} on .*\): wait"):
            locked(folder).__enter__()
        holder.kill()
        holder.wait()
    with locked(folder):
        pass


def test_a_folder_where_nothing_was_put_goes_again_and_others_stay(tmp_path):
    folder = tmp_path / "a" / "run"
    with locked(folder):
        assert folder.is_dir()
    assert not folder.exists()
    with locked(folder):
        (folder / "config.yaml").write_text("train: {}\n")
    assert (folder / "config.yaml").exists()


def test_the_lock_is_free_after_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="of the run"), locked(tmp_path):
        raise RuntimeError("of the run")
    with locked(tmp_path):
        pass


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    def refuse(handle, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path):
        assert "cannot be locked (Operation not supported)" in caplog.text


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to run_dir .*file/run: Not a directory"):
        locked(tmp_path / "file" / "run").__enter__()


def test_nothing_of_it_stays(tmp_path):
    (tmp_path / "mine.png").touch()
    with locked(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {FILE, "mine.png"}
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]


def test_a_lock_that_was_removed_meanwhile_is_not_taken_for_one(tmp_path, monkeypatch):
    """The one before us unlinks the file between our opening and our locking it."""
    flock, opened = fcntl.flock, []

    def after_the_other_one_left(handle, operation):
        if not opened:
            (tmp_path / FILE).unlink()
        opened.append(handle)
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", after_the_other_one_left)
    with locked(tmp_path):
        assert (tmp_path / FILE).exists()
        assert len(opened) == 2
