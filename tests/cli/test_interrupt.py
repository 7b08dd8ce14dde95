# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Ctrl-C ends the command with 130, at whatever moment it comes."""

import contextlib
import dataclasses
import signal
import subprocess
import sys

import pytest

from dreambooth_jax.cli import main
from dreambooth_jax.cli.interrupt import CtrlC
from dreambooth_jax.cli.verbs import VERBS

# A shell reports 128 + 2 for a process that the signal itself ended, as it may before Python has a handler.
INTERRUPTED = {130, -signal.SIGINT}
# says when the first import within main begins: before that, Python's own handler may still be the one that is asked
START = """
import sys
sys.argv = ["dreambooth-jax", "plan", "configs/quickstart.yaml", "--devices", "2"]
from dreambooth_jax.cli import main

class Announce:
    def find_spec(self, name, path=None, target=None):
        if name == "dreambooth_jax.cli.messages":
            print("started", flush=True)

sys.meta_path.insert(0, Announce())
sys.exit(main())
"""


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.2])
def test_ctrl_c_while_all_is_imported(seconds):
    with subprocess.Popen([sys.executable, "-c", START], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"started\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(seconds or 0.001)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode in INTERRUPTED
    assert b"Traceback" not in err
    assert out == b""


@pytest.mark.parametrize("swallow", ["import swallowing", "import turning"])
def test_an_import_that_swallows_it_ends_all_the_same(tmp_path, swallow):
    signal_itself = "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n"
    (tmp_path / "swallowing.py").write_text(signal_itself + "except BaseException:\n    pass\n")
    (tmp_path / "turning.py").write_text(signal_itself + "except BaseException:\n    raise ImportError\n")
    code = (
        f"import sys\nfrom dreambooth_jax.cli.interrupt import CtrlC\nwith CtrlC():\n    {swallow}\nprint('to the end')"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 130
    assert (ended.stdout, ended.stderr) == ("", "")


def press():
    signal.raise_signal(signal.SIGINT)


def test_an_interrupt_that_became_another_error_or_none_is_told_by_the_exit_code(monkeypatch):
    def swallowed(call):
        with contextlib.suppress(KeyboardInterrupt):
            press()

    def turned(call):
        try:
            press()
        except KeyboardInterrupt:
            raise RuntimeError("a callback failed") from None

    for run in (lambda *_: press(), swallowed, turned):
        monkeypatch.setitem(VERBS, "export", dataclasses.replace(VERBS["export"], run=run))
        assert main(["export", "run", "model"]) == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_command_in_the_background_goes_on_ignoring_it():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with CtrlC() as ctrl_c:
            press()
        assert not ctrl_c.pressed
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("verb", ["train --help-all", "--help", "sample -h"])
def test_a_reader_that_stopped_reading_is_no_error(verb):
    command = f"({sys.executable} -m dreambooth_jax {verb}; echo $? >&2) | true"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert ended.stderr.strip() == "0"
