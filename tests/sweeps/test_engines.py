# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Engines do all jobs, each in the order of its stages, and once."""

import importlib.util
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from dreambooth_jax.cli.job import memory_share
from dreambooth_jax.errors import InputError
from dreambooth_jax.locks import InUseError, locked
from dreambooth_jax.members import groups
from dreambooth_jax.sweeps import jobs
from dreambooth_jax.sweeps.engines import ENGINES, EngineOptions, ray_cluster, slurm
from dreambooth_jax.sweeps.jobs import Job, read_job, run_job, stages_of, write_stages
from dreambooth_jax.trainer.members import run
from dreambooth_jax.trainer.members.outcome import Outcome
from tests.sweeps.folders import planned

SBATCH = """#!{python}
# As SLURM's, but that it does each task before it answers, and says in which order it was asked.
import os, re, shlex, subprocess, sys
*options, script = sys.argv[1:]
text = open(script).read()
given = {{}}
for line in text.splitlines():
    if line.startswith("#SBATCH "):
        (word,) = shlex.split(line)[1:]  # one option each: blanks stand in quotes
        name, _, value = word.partition("=")
        given[name] = value
last = int(given["--array"].removeprefix("0-"))
log = open({log!r}, "a")
print(" ".join(options), "|", last, "|", given["--job-name"], file=log, flush=True)
for task in range(last + 1):
    signs = {{"%%": "%", "%x": given["--job-name"], "%A": "7", "%a": str(task)}}
    place = re.sub("%.", lambda sign: signs[sign[0]], given["--output"])
    environment = os.environ | {{"SLURM_ARRAY_TASK_ID": str(task)}}
    with open(place, "w") as output:
        ended = subprocess.run(["bash", script], env=environment, stdout=output, stderr=subprocess.PIPE)
    if ended.returncode:
        sys.stderr.write(ended.stderr.decode())
        sys.exit("task %d failed" % task)
print(100 + len(open({log!r}).readlines()))
"""


def put_on_path(monkeypatch, folder, **programs):
    """Programs that stand in for those of a cluster."""
    folder.mkdir(exist_ok=True)
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """A sweep whose jobs only write down that they were done, and the file where they do."""
    sweep, members = planned(
        tmp_path / "a 100%x sweep", "--adapter.kind=lora", "--train.seed=0,1", "--adapter.rank=2,4"
    )
    sweep.write(members)
    stages = stages_of(groups(members))
    done = tmp_path / "done"
    program = f"import sys; open({str(done)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')"

    def command_of(file, stage, number):
        return [sys.executable, "-c", program, str(file), str(stage), str(number)]

    monkeypatch.setattr(slurm, "command_of", command_of)
    monkeypatch.setattr(ray_cluster, "command_of", command_of)
    return sweep, stages, done


def in_order(done, sweep):
    """(stage, number) of the jobs as they were done."""
    lines = done.read_text().splitlines()
    assert all(line.startswith(str(sweep.folder.absolute() / "jobs" / "stages_")) for line in lines)
    return [tuple(map(int, line.split()[-2:])) for line in lines]


ALL = [(0, 0), (1, 0), (1, 1), (2, 0)]


def test_jobs_are_read_as_they_were_written(recorded):
    sweep, stages, _ = recorded
    file = write_stages(sweep.folder, stages)
    assert write_stages(sweep.folder, stages[1:]) != file, "the first call's jobs may still wait"
    assert [[read_job(file, i, j) for j in range(len(stage))] for i, stage in enumerate(stages)] == stages
    assert stages[1][0] == Job(kind="train", members=("seed-0_rank-2", "seed-1_rank-2"))


def test_slurm_gets_an_array_for_each_stage_that_waits_for_the_one_before(recorded, tmp_path, monkeypatch):
    sweep, stages, done = recorded
    log = tmp_path / "log"
    sbatch = SBATCH.format(python=sys.executable, log=str(log))
    put_on_path(
        monkeypatch,
        tmp_path / "bin",
        sbatch=sbatch,
        srun='#!/bin/sh\n[ $2 = --cpus-per-task=8 ] && shift 2\nexec "$@"\n',
    )
    ended = ENGINES["slurm"](sweep, stages, EngineOptions(gpus=2, cpus=8, submit="--partition=gpu --time=1:00:00"))
    assert not ended.over
    assert "101, 102, 103" in ended.message
    assert in_order(done, sweep) == ALL
    first, second, third = log.read_text().splitlines()
    assert first == "--parsable --partition=gpu --time=1:00:00 | 0 | a-100-x-sweep-class_images"
    assert "--dependency=afterok:101 --kill-on-invalid-dep=yes" in second
    assert second.endswith("| 1 | a-100-x-sweep-train")
    assert "--dependency=afterany:102" in third
    script = (sweep.folder / "jobs" / "1_train.sbatch").read_text()
    assert "#SBATCH --gpus=2\n#SBATCH --cpus-per-task=8\n" in script
    assert "#SBATCH --signal=TERM@180" in script
    assert (sweep.folder / "jobs" / "a-100-x-sweep-train-7_1.log").exists()
    subprocess.run(["bash", "-n", str(sweep.folder / "jobs" / "1_train.sbatch")], check=True)


def test_what_sbatch_says_against_it_is_one_line(recorded, tmp_path, monkeypatch):
    sweep, stages, _ = recorded
    put_on_path(monkeypatch, tmp_path / "bin", sbatch="#!/bin/sh\necho 'sbatch: invalid partition' >&2\nexit 1\n")
    with pytest.raises(InputError, match="sbatch refused .*0_class_images.sbatch: sbatch: invalid partition"):
        ENGINES["slurm"](sweep, stages, EngineOptions())


def test_engines_that_are_not_here_say_what_they_need(recorded, monkeypatch):
    sweep, stages, _ = recorded
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="needs sbatch, which is not here"):
        ENGINES["slurm"](sweep, stages, EngineOptions())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the extra ray: pip install 'dreambooth_jax\[ray\]'"):
        ENGINES["ray"](sweep, stages, EngineOptions())


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_who_is_trained_by_another_process_is_left_to_it(tmp_path, monkeypatch, kind):
    """The others are trained, nothing is wrong with anybody, and nothing is written down."""
    sweep, members = planned(tmp_path, f"--adapter.kind={kind}", "--train.seed=0,1,2", "--train.batch_size=8")
    sweep.write(members)
    names, done = [member.name for member in members], []

    def run_all(begun, *_):
        done.extend(one.name for some in begun for one in some.members)
        return {name: Outcome(name=name, result=SimpleNamespace(finished=True)) for name in done}

    def train(config):
        with locked(Path(config.run_dir)):
            done.append(Path(config.run_dir).name)
        return SimpleNamespace(finished=True)

    monkeypatch.setattr(run, "_run_all", run_all)
    monkeypatch.setattr(run, "_refused", lambda *_: "")
    monkeypatch.setattr(jobs, "train", train)
    with locked(sweep.run_dir("seed-1")), pytest.raises(InUseError, match="seed-1 is in use by another run"):
        run_job(sweep, Job(kind="train", members=tuple(names)))
    assert done == ["seed-0", "seed-2"]
    with locked(sweep.run_dir("seed-1")), pytest.raises(InUseError, match="seed-1 is in use by another run"):
        run_job(sweep, Job(kind="train", members=("seed-1",)))
    assert done == ["seed-0", "seed-2"]
    assert not [*tmp_path.rglob("error.txt")]


def test_class_images_of_who_is_trained_by_another_process_are_left_to_who_needs_them(tmp_path, monkeypatch):
    """On SLURM nothing is trained after a stage that failed."""
    sweep, members = planned(tmp_path, "--adapter.kind=lora", "--train.seed=0,1")
    sweep.write(members)

    def make_class_images(config):
        with locked(Path(config.run_dir)):
            raise AssertionError("it is in use")

    monkeypatch.setattr(jobs, "make_class_images", make_class_images)
    with locked(sweep.run_dir("seed-0")):
        assert run_job(sweep, Job(kind="class_images", members=("seed-0",))) is None
    assert not [*tmp_path.rglob("error.txt")]


def test_a_job_ends_when_nobody_waits_for_it_any_more(tmp_path):
    ended = tmp_path / "ended"
    child = (
        "import pathlib, signal, sys, time\nfrom dreambooth_jax.cli import job\njob.WATCHED = 0.05\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(ended)!r}).touch(), sys.exit(0)))\n"
        "job.end_with_parent()\nprint('ready', flush=True)\ntime.sleep(300)"
    )
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.kill()
        process.stdout.read()  # until the child has ended, too
    assert ended.exists()


def stand_in_for_ray(pool):
    """Tasks are futures."""

    def remote(**resources):
        return lambda function: SimpleNamespace(remote=lambda *given: pool.submit(function, *given))

    return SimpleNamespace(
        is_initialized=lambda: True,
        remote=remote,
        get=lambda one: one.result(),
        exceptions=SimpleNamespace(RayError=OSError),
    )


def test_a_job_that_goes_on_failing_takes_no_other_down(recorded, monkeypatch):
    sweep, stages, done = recorded
    write = f"open({str(done)!r}, 'a').write(' '.join([*sys.argv[1:], os.environ['DREAMBOOTH_JAX_JOB_GPUS']]) + '\\n')"
    program = f"import os, sys\nif sys.argv[2:] == ['1', '0']: sys.exit('out of memory')\n{write}"
    monkeypatch.setattr(ray_cluster, "command_of", lambda *job: [sys.executable, "-c", program, *map(str, job)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with ThreadPoolExecutor(2) as pool:
        monkeypatch.setitem(sys.modules, "ray", stand_in_for_ray(pool))
        ended = ENGINES["ray"](sweep, stages, EngineOptions(gpus=0.5))
    assert ended.over
    assert ended.failed == ["exit code 1: out of memory"]
    assert [line.split()[-3:] for line in done.read_text().splitlines()] == [
        ["0", "0", "0.5"],
        ["1", "1", "0.5"],
        ["2", "0", "0.5"],
    ]
    assert [memory_share(gpus) for gpus in (None, "0.5", "1", "2")] == ["0.9", "0.45", "0.9", "0.9"]


def test_class_images_that_cannot_be_made_end_nobody_who_needs_none(tmp_path):
    sweep, (member, *_) = planned(tmp_path, "--adapter.kind=lora", "--train.seed=0,1")
    sweep.write([member])
    assert run_job(sweep, Job(kind="class_images", members=(member.name,))) is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_does_all_jobs_and_tries_again_what_was_taken_down(recorded, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    sweep, stages, done = recorded
    mark = tmp_path / "taken_down"
    once = f"import os, sys, pathlib\np = pathlib.Path({str(mark)!r})\n"
    once += "if not p.exists(): p.touch(); os.kill(os.getpid(), 9)\n"
    program = once + f"open({str(done)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')"
    monkeypatch.setattr(ray_cluster, "command_of", lambda *job: [sys.executable, "-c", program, *map(str, job)])
    ended = ENGINES["ray"](sweep, stages, EngineOptions(cpus=1, retries=2))
    assert ended.over
    found = in_order(done, sweep)
    assert (found[0], sorted(found[1:3]), found[3]) == (ALL[0], ALL[1:3], ALL[3])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wrong_input_on_ray_is_one_line_and_not_tried_again(recorded, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    sweep, stages, done = recorded
    program = f"import sys; open({str(done)!r}, 'a').write('x'); sys.exit('dreambooth-jax: no such model')"
    program = program.replace("sys.exit(", "print(").replace("model')", "model', file=sys.stderr); sys.exit(2)")
    monkeypatch.setattr(ray_cluster, "command_of", lambda *job: [sys.executable, "-c", program])
    assert ENGINES["ray"](sweep, stages[:1], EngineOptions(cpus=1)).failed == ["no such model"]
    assert done.read_text() == "x"
