# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Whose turn it is, and what a page that comes back finds."""

import os
import signal
import sys
import time

import pytest

from dreambooth_jax.app.queue import Queue
from dreambooth_jax.errors import InputError


def asleep(job, code):
    """Ends with the job's own word as its exit code, after its second word's seconds."""
    text = "import sys, time; time.sleep(float(sys.argv[2])); open(sys.argv[1], 'w').write(sys.argv[3])"
    return [sys.executable, "-c", text, str(code), job.words[1], job.words[0]]


def wait_for(queue, number, *states):
    for _ in range(600):
        queue.tick()
        job = next(job for owner in ("ada", "bob") for job in [*queue.of(owner)] if job.number == number)
        if job.state in states:
            return job
        time.sleep(0.05)
    raise AssertionError(f"{number} is {job.state}")


def test_turns_are_taken(tmp_path):
    queue = Queue(tmp_path, most=9, command=asleep)
    for owner in ("ada", "ada", "ada", "bob"):
        queue.add(owner, ("0", "0"), tmp_path)
    order = []
    for _ in range(600):
        queue.tick()
        for owner in ("ada", "bob"):
            order += [job.number for job in queue.of(owner) if job.state != "waiting" and job.number not in order]
        if len(order) == 4:
            break
        time.sleep(0.05)
    assert order == [1, 4, 2, 3]
    assert wait_for(queue, 3, "done")


def test_one_at_a_time_and_codes_tell_how_it_ended(tmp_path):
    queue = Queue(tmp_path, most=9, command=asleep)
    queue.add("ada", ("2", "0.3"), tmp_path)
    queue.add("ada", ("0", "0"), tmp_path)
    queue.tick()
    queue.tick()
    assert [job.state for job in queue.of("ada")] == ["running", "waiting"]
    wait_for(queue, 1, "failed")
    wait_for(queue, 2, "done")


def test_a_page_that_comes_back_finds_what_runs_and_what_waits(tmp_path):
    queue = Queue(tmp_path, most=9, command=asleep)
    queue.add("ada", ("0", "1"), tmp_path)
    queue.add("bob", ("0", "0"), tmp_path)
    queue.tick()
    pid = queue.of("ada")[0].pid
    later = Queue(tmp_path, most=9, command=asleep)
    assert [(job.state, job.pid) for job in later.of("ada")] == [("running", pid)]
    assert later.of("bob")[0].state == "waiting"
    queue._own[1].wait()
    wait_for(later, 1, "done")
    wait_for(later, 2, "done")


def test_what_died_with_the_machine_begins_again(tmp_path):
    queue = Queue(tmp_path, most=9, command=asleep)
    queue.add("ada", ("0", "60"), tmp_path)
    queue.tick()
    process = queue._own[1]
    process.kill()
    process.wait()
    assert Queue(tmp_path, most=9, command=asleep).of("ada")[0].state == "waiting"


def test_without_a_time_of_birth_it_is_known_while_the_page_lives_and_begins_again_after(tmp_path, monkeypatch):
    """Where there is no /proc, or a process that ended before it was looked at."""
    monkeypatch.setattr("dreambooth_jax.app.queue.born", lambda pid: "")
    queue = Queue(tmp_path, most=9, command=asleep)
    queue.add("ada", ("0", "60"), tmp_path)
    queue.tick()
    queue.tick()
    assert queue.of("ada")[0].state == "running"
    assert Queue(tmp_path, most=9, command=asleep).of("ada")[0].state == "waiting"
    queue.stop("ada", 1)
    assert wait_for(queue, 1, "stopped", "failed").state == "stopped"


SAVING = """
import signal, sys, time
from dreambooth_jax.app.endings import code_of
def command():
    heard = []
    signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    open(sys.argv[1] + ".ready", "w").close()
    while not heard and sys.argv[2] == "waits": time.sleep(0.01)
    return 0
open(sys.argv[1], "w").write(str(code_of(command)))
"""


def saving(job, code):
    """Ends well, as a training does: at once, or when it is asked to."""
    return [sys.executable, "-c", SAVING, str(code), job.words[0]]


@pytest.mark.parametrize(("word", "state"), [("waits", "stopped"), ("is done", "done")])
def test_what_anybody_ends_is_stopped_and_not_done(word, state, tmp_path):
    """A training that SIGTERM ends saves, and its exit code is that of one that is done."""
    queue = Queue(tmp_path, most=9, command=saving)
    job = queue.add("ada", (word,), tmp_path)
    queue.tick()
    for _ in range(600):
        if queue.files.code(job).with_suffix(".code.ready").exists():
            break
        time.sleep(0.05)
    if word == "waits":
        os.kill(queue.of("ada")[0].pid, signal.SIGTERM)
    assert wait_for(queue, 1, "stopped", "done", "failed").state == state


def test_what_is_ended_before_it_listens_is_stopped(tmp_path):
    queue = Queue(tmp_path, most=9, command=asleep)
    queue.add("ada", ("0", "60"), tmp_path)
    queue.tick()
    os.kill(queue.of("ada")[0].pid, signal.SIGTERM)
    assert wait_for(queue, 1, "stopped", "done", "failed").state == "stopped"


def test_only_the_owner_stops_a_job(tmp_path):
    queue = Queue(tmp_path, most=9, command=asleep)
    queue.add("ada", ("0", "60"), tmp_path)
    queue.tick()
    queue.stop("bob", 1)
    assert queue.of("ada")[0].state == "running"
    queue.stop("ada", 1)
    wait_for(queue, 1, "stopped")


def test_the_queue_has_bounds_and_survives_damage(tmp_path):
    queue = Queue(tmp_path, most=2, command=asleep)
    queue.add("ada", ("0", "0"), tmp_path)
    queue.add("ada", ("0", "0"), tmp_path)
    with pytest.raises(InputError, match="2 jobs of yours"):
        queue.add("ada", ("0", "0"), tmp_path)
    queue.add("bob", ("0", "0"), tmp_path)
    (tmp_path / "000002.json").write_text("{")
    assert [job.number for job in Queue(tmp_path, most=2).of("ada")] == [1]


def test_what_cannot_be_begun_keeps_nobody_waiting(tmp_path):
    queue = Queue(tmp_path, most=9, command=asleep)
    queue.add("ada", ("a\0b", "0"), tmp_path)
    queue.add("bob", ("0", "0"), tmp_path)
    wait_for(queue, 2, "done")
    assert queue.of("ada")[0].state == "failed"
    assert "null" in queue.files.last_line(queue.of("ada")[0])


def test_the_last_word_is_one(tmp_path):
    """XLA puts rows of stars around what it says of long compilations."""
    queue = Queue(tmp_path, most=9)
    job = queue.add("ada", ("0",), tmp_path)
    for printed, last in (
        ("a\n b \n\n", "b"),
        ("slow?\n*****\n", "slow?"),
        ("x: 1%|\rx: 2%|", "x: 2%|"),
        ("\n**\n", ""),
    ):
        queue.files.log(job).write_text(printed)
        assert queue.files.last_line(job) == last
