# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a run needs, before it begins and while nobody waits."""

import json
import sys
import time

import pytest

from dreambooth_jax.app.limits import USUAL
from dreambooth_jax.app.plans import Plans
from dreambooth_jax.app.queue import Queue
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.requests.needs import command, fits, memory, time_of
from dreambooth_jax.config import load_config, save_config
from dreambooth_jax.errors import InputError

TELLS = """
import sys, time
for line in sys.argv[2:]: print(line, flush=True)
time.sleep(float(sys.argv[1]))
"""


def asked(seconds, *lines):
    return (str(seconds), *map(json.dumps, lines))


@pytest.fixture
def plans(tmp_path):
    found = Plans(tmp_path / "plans", command=lambda words: [sys.executable, "-c", TELLS, *words])
    yield found
    for owner in ("ada", "bob"):
        found.cancel(owner)


def wait_for(plans, owner, test):
    for _ in range(1200):
        if test(told := plans.told(owner)):
            return told
        time.sleep(0.05)
    raise AssertionError(told)


def test_what_is_known_is_told_at_once_and_the_rest_when_it_is_found_out(plans):
    plans.ask("ada", asked(60, {"held": 2e9, "room": 8e9}))
    told = wait_for(plans, "ada", lambda told: told.known)
    assert told.since is not None
    assert not told.done
    assert memory(plans, "ada").startswith("memory: at least 2 of 8 GB between steps; planning for")
    plans.ask("ada", asked(0, {"held": 2e9, "room": 8e9}, {"peak": 9e9, "room": 8e9, "advice": ["train.remat=blocks"]}))
    wait_for(plans, "ada", lambda told: told.done)
    assert memory(plans, "ada") == "memory: needs 9 of 8 GB, which does not fit: train.remat=blocks"


def test_one_is_planned_at_a_time_and_what_nobody_wants_is_given_up(plans):
    long, short = asked(60), asked(0, {"peak": 1e9, "room": None, "advice": []})
    plans.ask("ada", long)
    plans.ask("bob", short)
    assert plans.told("bob").since is None
    assert "others" in memory(plans, "bob")
    first = plans._now[1]
    plans.cancel("ada")
    assert plans.told("ada") is None
    assert memory(plans, "ada") == ""
    assert first.poll() is not None
    wait_for(plans, "bob", lambda told: told.done)
    plans._begin = None  # it would be called
    plans.ask("ada", short)
    assert memory(plans, "ada") == memory(plans, "bob") == "memory: needs 1 GB"


def test_what_ends_without_a_word_and_what_is_wrong_are_told(plans):
    plans.ask("ada", asked(0))
    wait_for(plans, "ada", lambda told: told.done)
    assert "no more could be found out" in memory(plans, "ada")
    plans.ask("ada", asked(0, {"error": "/srv/models/x is no model"}))
    wait_for(plans, "ada", lambda told: told.done)
    assert memory(plans, "ada") == "x is no model"


@pytest.mark.parametrize(
    ("lines", "done", "lives"),
    [
        ([], False, False),
        ([{"held": 2e9, "room": 8e9}], False, True),
        ([{"held": 2e9, "room": None}], False, True),
        ([{"held": 9e9, "room": 8e9}], False, False),
        ([{"held": 2e9, "room": 8e9}, {"peak": 9e9, "room": 8e9, "advice": []}], True, False),
        ([{"error": "x is no model"}], True, False),
        ([], True, True),  # nothing can be found out: whoever wants to may try
    ],
)
def test_a_training_may_begin_when_it_is_known_to_fit(plans, lines, done, lives):
    assert not fits(plans, "ada"), "nothing was asked"
    plans.ask("ada", asked(0 if done else 60, *lines))
    wait_for(plans, "ada", lambda told: told.done if done else not lines or told.known)
    assert fits(plans, "ada") == lives


@pytest.fixture
def desk(tmp_path):
    return Desk(Queue(tmp_path / "jobs", most=9), tmp_path / "people", ("quickstart",), limits=USUAL)


def test_what_is_planned_is_what_would_be_trained_of_anybody(desk):
    words = command(desk, config="quickstart", quality=1, settings="train.batch_size=2")
    config = load_config(words[0], words[1:])
    assert config.train.batch_size == 2
    assert command(desk, config="quickstart", quality=1, settings="train.batch_size=2") == words
    for wrong in ({"config": "/etc/passwd"}, {"config": "quickstart", "settings": "model.path=x"}):
        with pytest.raises(InputError):
            command(desk, **wrong)


def test_time_is_that_of_the_newest_run_of_the_same_work(desk, tmp_path):
    config = load_config("quickstart", ["train.steps=100", "train.batch_size=4"])
    assert "not known" in time_of(desk, config)
    for number, (batch, speed) in enumerate(((4, 4.0), (4, 16.0), (2, 1.0))):
        run = tmp_path / f"run{number}"
        run.mkdir()
        save_config(run / "config.yaml", load_config("quickstart", [f"train.batch_size={batch}"]))
        (run / "metrics.jsonl").write_text(json.dumps({"step": 10, "loss": 1.0, "images_per_second": speed}) + "\n")
        desk.queue.add("ada", ("train",), run)
    assert "about 0 min 50 s of steps, 0.5 s each" in time_of(desk, config)  # 8 examples a step: 4, and 4 of the class
    assert "not known" in time_of(desk, load_config("quickstart", ["adapter.kind=full"]))
