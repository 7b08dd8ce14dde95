# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import time

import pytest

from dreambooth_jax import progress
from dreambooth_jax.progress import Progress, announced


@pytest.fixture
def clock(monkeypatch):
    """Seconds that tests set."""
    now = [0.0]
    monkeypatch.setattr(progress, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize("first", [0.1, 30.0, 3600.0])
@pytest.mark.parametrize("each", [1, 4])
def test_the_time_left_is_that_of_equal_items_however_long_the_first_took(clock, capsys, first, each):
    with Progress(total=40 * each, desc="train") as bar:
        assert bar.time_left is None
        clock[0] = first
        for done in range(1, 41):
            bar.update(each)
            assert bar.time_left == (pytest.approx(0.5 * (40 - done)) if done > 2 else None)
            clock[0] += 0.5


def test_a_bar_shows_no_time_before_it_means_something(clock, capsys):
    with Progress(total=400, desc="train", mininterval=0) as bar:
        clock[0] = 20.0
        bar.update(1)
        bar.refresh()
        assert "<?" in str(bar)
        for _ in range(2):
            clock[0] += 1
            bar.update(1)
        assert "<06:37" in str(bar)


def test_a_resumed_run_counts_its_own_steps_alone(clock, capsys):
    with Progress(total=100, initial=90) as bar:
        for _ in range(3):
            clock[0] += 2
            bar.update(1)
        assert bar.time_left == pytest.approx(14)


def test_what_lasts_is_told_once_and_what_does_not_is_not(monkeypatch, caplog):
    monkeypatch.setattr(progress, "SILENCE", 0.2)
    with caplog.at_level("INFO"):
        with announced("doing a little", usually="no time"):
            pass
        with announced("compiling the training step", usually="a minute or so"):
            time.sleep(0.5)
    assert [record.getMessage() for record in caplog.records] == [
        "compiling the training step (usually a minute or so)"
    ]


def test_an_error_is_not_held_up(caplog):
    with pytest.raises(KeyError), announced("failing", usually="no time"):
        raise KeyError
