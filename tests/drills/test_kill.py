# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""kill -9 at any moment: the same command goes on, and nothing of it is to be seen in what comes out."""

import json
import multiprocessing
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from tests.drills import worker
from tests.runs import assert_same, draw_photos, weights

pytestmark = pytest.mark.slow  # some twenty-five processes

SETTINGS = [
    "prior.class_images=null",
    "prior.num_images=2",
    "train.steps=3",
    "train.ema_decay=0.5",
    "checkpoint.every=1",
    "checkpoint.keep_last=2",
    "samples.every=3",
    "samples.steps=1",
    "samples.num_images=1",
]
RUNS, KILLS = 3, 4
"""So many runs, each of which is killed so many times."""


@pytest.fixture(scope="module")
def processes():
    """Forked from one that has imported everything and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.drills.worker"])
    return context


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("kill")
    draw_photos(root / "photos")
    return root


def run(processes, root, folder, kill_at=None):
    """(exit code, answer of one that was not killed)"""
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=worker.train, args=(root, folder, SETTINGS, kill_at, sender))
    process.start()
    sender.close()
    process.join(300)
    return process.exitcode, receiver.recv() if process.exitcode == 0 else None


@pytest.fixture(scope="module")
def whole(processes, root):
    """(folder of a run that nobody killed, its moments)"""
    code, (finished, moments) = run(processes, root, root / "whole")
    assert (code, finished) == (0, True)
    assert moments > 2 * RUNS * KILLS
    return root / "whole", moments


def test_killed_at_any_moment_the_run_comes_to_the_same_end(processes, root, whole):
    """First at one of several moments, then again and again half-way through what is left, while it goes on."""
    folder, moments = whole
    places = np.linspace(1, moments - 1, RUNS).astype(int).tolist()

    def drill(place):
        killed, left, next_place, codes = root / f"killed{place}", moments, place, []
        for _ in range(KILLS):
            codes.append(run(processes, root, killed, kill_at=next_place)[0])
            left -= next_place
            next_place = max(2, left // 2)
        return place, codes, run(processes, root, killed)

    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(drill, places))
    # on other threads things happen in another order: the last moments may come after the end
    assert sum(code == -signal.SIGKILL for _, codes, _ in ended for code in codes) >= RUNS * KILLS - 2, ended
    for place, codes, (again, answer) in ended:
        assert set(codes) <= {0, -signal.SIGKILL}, place
        assert (again, answer and answer[0]) == (0, True), place
        _compare(folder, root / f"killed{place}")


def _compare(whole, killed):
    for ema in (False, True):
        assert_same(weights(whole, 3, ema=ema), weights(killed, 3, ema=ema))
    kinds = ("model/**/*", "exported.json", "class_images/*")
    names = sorted(str(path.relative_to(whole)) for kind in kinds for path in whole.glob(kind) if path.is_file())
    assert names == sorted(
        str(path.relative_to(killed)) for kind in kinds for path in killed.glob(kind) if path.is_file()
    )
    for name in names:
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
    lines = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (whole, killed)]
    assert [line["step"] for line in lines[1]] == [1, 2, 3]
    assert [line["loss"] for line in lines[1]] == [line["loss"] for line in lines[0]]
    for grid in ("step_000000", "step_000003", "before_after"):
        pictures = [np.asarray(Image.open(run / "samples" / f"{grid}.png")) for run in (whole, killed)]
        np.testing.assert_array_equal(*pictures)
