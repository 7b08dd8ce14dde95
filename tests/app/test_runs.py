# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Runs of one's own, and of others who share them; what is measured of them."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreambooth_jax.app.progress import samples
from dreambooth_jax.app.queue import Queue
from dreambooth_jax.app.requests.desk import Desk, share_of
from dreambooth_jax.app.requests.draw import Drawing, draw
from dreambooth_jax.app.requests.measure import MEASURES, measure, report
from dreambooth_jax.app.requests.runs import command_of, delete, run_of, runs, settings_of, share
from dreambooth_jax.app.requests.train import again
from dreambooth_jax.cli.parsing import read_call
from dreambooth_jax.cli.verbs import VERBS
from dreambooth_jax.doctor.told import as_json
from dreambooth_jax.errors import InputError
from tests.app.places import end, put_run


def drawn(desk, owner, *, of, **given):
    """The job of one picture by a training."""
    (job,) = draw(desk, owner, Drawing(source=str(of), prompt="a dog", count=1, **given))
    return job


@pytest.fixture
def desk(tmp_path):
    return Desk(Queue(tmp_path / "jobs", most=9), tmp_path / "people", ("quickstart",))


def numbers(desk, owner):
    return [run.number for run, _ in runs(desk, owner)]


def test_a_run_is_what_its_folder_says_and_going_on_makes_no_second(desk):
    job = put_run(desk, "ada")
    sheets = [np.full((8, 8, 3), value, np.uint8) for value in (0, 100)]
    (Path(job.folder) / "samples").mkdir()
    for step, sheet in zip((2, 10), sheets):
        Image.fromarray(sheet).save(Path(job.folder) / "samples" / f"step_{step:06d}.png")
    (Path(job.folder) / "samples" / "step_000020.png").write_bytes(b"half")
    more = again(desk, "ada", job.number)
    ((run, _),) = runs(desk, "ada")
    assert (run.number, run.state, run.steps, run.mine) == (more.number, "waiting", (4,), True)
    assert run.noun == "red dog/.."
    assert [step for step, _ in samples(Path(job.folder), most=2)] == [10]  # of the last two one is being written
    assert [step for step, _ in samples(Path(job.folder), most=9)] == [2, 10]
    np.testing.assert_array_equal(samples(Path(job.folder), most=9)[1][1], sheets[1])


def test_sharing_shows_a_run_and_lets_draw_but_not_more(desk):
    job = put_run(desk, "ada")
    hidden = "you have no training"
    for step in ("before", "shared", "after"):
        share(desk, "ada", job.number, shared=step == "shared")
        if step == "shared":
            assert numbers(desk, "bob") == [job.number]
            assert not run_of(job, "bob").mine
            assert drawn(desk, "bob", of=job.number).words[1] == job.folder
            assert str(desk.place("bob")) in measure(desk, "bob", "doctor", of=job.number, count=1).words[2]
            for other in (3, 2):
                desk.queue.stop("bob", other)
        else:
            assert numbers(desk, "bob") == []
            for refused in (drawn, lambda desk, owner, of: measure(desk, owner, "doctor", of=of, count=1)):
                with pytest.raises(InputError, match=hidden):
                    refused(desk, "bob", of=job.number)
        for refused in (again, delete, lambda *words: share(*words, shared=True)):
            with pytest.raises(InputError, match=hidden):
                refused(desk, "bob", job.number)
    assert Path(job.folder).exists()


def test_the_newest_is_never_of_somebody_else(desk):
    """0 is one's own newest, whatever others share."""
    job = put_run(desk, "ada")
    share(desk, "ada", 0, shared=True)
    for refused in (desk.own, lambda owner, number: delete(desk, owner, number)):
        with pytest.raises(InputError, match="no training yet"):
            refused("bob", 0)
    assert share_of(job).exists()


def test_deleting_frees_the_disk_and_leaves_what_others_need(desk):
    first, second = put_run(desk, "ada"), put_run(desk, "ada")
    measured = desk.measured("ada") / f"{Path(first.folder).name}-doctor"
    measured.mkdir(parents=True)
    (measured / "a.png").write_bytes(bytes(2_000_000))
    share(desk, "ada", first.number, shared=True)
    desk.queue.files.log(first).write_text("secret")
    photos = Path(first.words[2].partition("=")[2])
    assert photos.exists()
    assert delete(desk, "ada", first.number) > 2
    for place in (Path(first.folder), measured, share_of(first), photos, desk.queue.files.log(first)):
        assert not place.exists()
    assert Path(second.folder).exists()
    assert numbers(desk, "ada") == numbers(Desk(Queue(desk.queue.files.path, most=9), desk.folder, ()), "ada") == [2]
    with pytest.raises(InputError, match="no training 1"):
        delete(desk, "ada", first.number)
    assert put_run(desk, "ada").number == 3  # numbers are not given twice


def test_photos_of_another_run_stay(desk):
    first = put_run(desk, "ada")
    photos = first.words[2].partition("=")[2]
    second = put_run(desk, "ada", f"data.instance_images={photos}")
    desk.queue._set(second, words=tuple(word for word in second.words if word != second.words[2]))
    delete(desk, "ada", first.number)
    assert Path(photos).exists()


@pytest.mark.parametrize("state", ["waiting", "running", "stopping"])
def test_nothing_is_deleted_that_a_job_of_anybody_works_with(state, desk):
    job = put_run(desk, "ada")
    share(desk, "ada", 0, shared=True)
    works = end(desk, drawn(desk, "bob", of=job.number), state)
    with pytest.raises(InputError, match=f"number {works.number} works with it"):
        delete(desk, "ada", 0)
    end(desk, works, "stopped")
    end(desk, job, state)
    with pytest.raises(InputError, match="number 1 works with it"):
        delete(desk, "ada", 0)
    assert Path(job.folder).exists()
    assert numbers(desk, "ada") == [1]


def test_folders_are_told_on_this_machine_alone_and_their_owner_alone(desk, tmp_path):
    job = put_run(desk, "ada")
    local = Desk(desk.queue, desk.folder, ("quickstart",), local=True)
    assert shlex.split(command_of(local, job)) == ["dreambooth-jax", *job.words]
    assert job.folder in settings_of(local, "ada", job)
    for told in (command_of(desk, job), settings_of(desk, "ada", job), settings_of(local, "bob", job)):
        assert str(tmp_path) not in told
        assert "red dog" in told


@pytest.mark.parametrize("verb", MEASURES)
def test_what_is_measured_is_a_command_line(verb, desk):
    run = put_run(desk, "ada")
    first, second = (measure(desk, "ada", verb, of=number, count=2) for number in (0, run.number))
    assert first.words == second.words  # which goes on where it was stopped
    options = read_call(VERBS[verb], first.words[1:]).settings
    assert options.num_images == 2
    assert Path(options.out).is_relative_to(desk.place("ada"))
    for changed in ({"of": 9}, {"count": 0}, {"count": 1000}, {"verb": "train"}):
        with pytest.raises(InputError):
            measure(desk, "ada", **{"verb": verb, "of": 0, "count": 1} | changed)


def test_reports_are_shown_once_they_are_there_and_nothing_in_them_is_live(desk, tmp_path):
    put_run(desk, "ada")
    doctor, evaluate = (measure(desk, "ada", verb, of=0, count=1) for verb in ("doctor", "evaluate"))
    evil = f"<script>alert(1)</script> in {tmp_path}/x/y.png"
    found = {"name": "x", "what": evil, "evidence": [evil], "change": evil}
    record = json.dumps([{"name": "x", "findings": [found], "not_looked_at": [evil], "looks": None}], indent=1)
    assert as_json([]) == "[]\n"
    log = desk.queue.files.log(doctor)
    log.write_text(f"drawing\r 1/2\n[\n not this\n{record}\n")
    Path(evaluate.folder).mkdir(parents=True)
    (Path(evaluate.folder) / "report.html").write_text(f'<h1>"{desk.folder}/ada/runs/x"</h1>{evil}')
    for job in (doctor, evaluate):
        assert report(desk, job) == ""
        shown = report(desk, end(desk, job))
        assert "alert(1)" in shown
        assert "<script" not in shown
        assert str(desk.folder) not in shown
    assert 'sandbox=""' in report(desk, end(desk, evaluate))
    log.write_text("no report")
    assert report(desk, end(desk, doctor)) == ""
