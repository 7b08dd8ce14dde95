# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Engines do all jobs, each in the order of its stages, and once."""

import importlib.util
import os
import stat
import subprocess
import sys

import pytest

from dreambooth_jax.errors import InputError
from dreambooth_jax.members import groups
from dreambooth_jax.sweeps.engines import ENGINES, EngineOptions, ray_cluster, slurm
from dreambooth_jax.sweeps.jobs import Job, read_job, stages_of, write_stages
from tests.sweeps.folders import planned

SBATCH = """#!{python}
# As SLURM's, but that it does each task before it answers, and says in which order it was asked.
import os, subprocess, sys
*options, script = sys.argv[1:]
text = open(script).read()
last = int(text.split("--array=0-")[1].split()[0])
log = open({log!r}, "a")
print(" ".join(options), "|", last, "|", text.split("--job-name=")[1].split()[0], file=log, flush=True)
for task in range(last + 1):
    ended = subprocess.run(["bash", script], env=os.environ | {{"SLURM_ARRAY_TASK_ID": str(task)}}, capture_output=True)
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
    sweep, members = planned(tmp_path / "a sweep", "--adapter.kind=lora", "--train.seed=0,1", "--adapter.rank=2,4")
    sweep.write(members)
    stages = stages_of(groups(members))
    write_stages(sweep.folder, stages)
    done = tmp_path / "done"
    program = f"import sys; open({str(done)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')"

    def command_of(folder, stage, number):
        return [sys.executable, "-c", program, str(folder), str(stage), str(number)]

    monkeypatch.setattr(slurm, "command_of", command_of)
    monkeypatch.setattr(ray_cluster, "command_of", command_of)
    return sweep, stages, done


def in_order(done, sweep):
    """(stage, number) of the jobs as they were done."""
    lines = done.read_text().splitlines()
    assert all(line.startswith(str(sweep.folder.absolute())) for line in lines)
    return [tuple(map(int, line.split()[-2:])) for line in lines]


ALL = [(0, 0), (1, 0), (1, 1), (2, 0)]


def test_jobs_are_read_as_they_were_written(recorded):
    sweep, stages, _ = recorded
    assert [[read_job(sweep.folder, i, j) for j in range(len(stage))] for i, stage in enumerate(stages)] == stages
    assert stages[1][0] == Job(kind="train", members=("seed-0_rank-2", "seed-1_rank-2"))


def test_slurm_gets_an_array_for_each_stage_that_waits_for_the_one_before(recorded, tmp_path, monkeypatch):
    sweep, stages, done = recorded
    log = tmp_path / "log"
    sbatch = SBATCH.format(python=sys.executable, log=str(log))
    put_on_path(monkeypatch, tmp_path / "bin", sbatch=sbatch, srun='#!/bin/sh\nshift\nexec "$@"\n')
    ended = ENGINES["slurm"](sweep, stages, EngineOptions(gpus=2, cpus=8, submit="--partition=gpu --time=1:00:00"))
    assert not ended.over
    assert "101, 102, 103" in ended.message
    assert in_order(done, sweep) == ALL
    first, second, third = log.read_text().splitlines()
    assert first == "--parsable --partition=gpu --time=1:00:00 | 0 | a-sweep-class_images"
    assert "--dependency=afterok:101 --kill-on-invalid-dep=yes" in second
    assert second.endswith("| 1 | a-sweep-train")
    assert "--dependency=afterany:102" in third
    script = (sweep.folder / "jobs" / "1_train.sbatch").read_text()
    assert "#SBATCH --gpus=2\n#SBATCH --cpus-per-task=8\n" in script
    assert "#SBATCH --signal=TERM@180" in script
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
    with pytest.raises(InputError, match="^no such model$"):
        ENGINES["ray"](sweep, stages[:1], EngineOptions(cpus=1))
    assert done.read_text() == "x"
