# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Two people with a browser each, and a page that is killed while it trains."""

import pytest

from tests.app.serving import Served

Walk = pytest.importorskip("tests.app.browser.steps").Walk
pytestmark = pytest.mark.slow

LONG = ("train.steps=3000", "samples.every=0", "checkpoint.every=1000")


@pytest.fixture
def own(browser, tmp_path):
    """A page that nobody else is on."""
    served = Served(tmp_path / "own")
    yield served
    served.end()


def test_what_trains_outlives_the_page_and_who_waits_is_next(own, visit, shoot):
    ada, bob = (Walk(visit(at=own), shoot, f"restart_{name}") for name in ("ada", "bob"))
    for walk in (ada, bob):
        walk.upload(*LONG)
        walk.press("Train")
    ada.reads("Progress", r"number 1: running")
    bob.reads("Progress", r"number 2: waiting, at most 1 before it")
    ada.reads("Progress", r"train \d+ of 3000")

    for walk in (ada, bob):
        walk.page.goto("about:blank")  # a browser complains in its console about a page that is gone
    own.kill()
    before = steps_of(own)
    own.start()
    for walk in (ada, bob):
        walk.page.goto(own.url)
    ada.reads("Progress", r"number 1: running\ntrain \d+ of 3000")
    bob.reads("Progress", r"number 2: waiting")
    assert [job.state for job in own.jobs()] == ["running", "waiting"]
    bob.page.wait_for_timeout(2000)
    assert steps_of(own) > before, "it has gone on"
    ada.shot("after")

    bob.open("Draw")
    bob.field("Model").click()
    assert not any(name.startswith("1: ") for name in bob.page.get_by_role("option").all_inner_texts())
    bob.page.keyboard.press("Escape")
    bob.open("Train")
    bob.field("Number of the training (0 is the newest)").fill("1")
    bob.reads("Progress", "you have no training 1")
    bob.field("Number of the training (0 is the newest)").fill("0")

    ada.press("Stop")
    ada.reads("Progress", r"number 1: stopped")
    bob.reads("Progress", r"number 2: running")
    bob.press("Stop")
    bob.reads("Progress", r"number 2: stopped")


def steps_of(served):
    """How far the only training is that has begun."""
    (metrics,) = served.folder.glob("app/people/*/runs/*/metrics.jsonl")
    return len(metrics.read_text().splitlines())
