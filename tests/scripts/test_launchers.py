# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The launchers, with the clusters' own programs replaced by ones that do on this machine what they are told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dreambooth_jax.cli.parsing import read_call
from dreambooth_jax.cli.processes import PROCESSES
from dreambooth_jax.cli.verbs import VERBS

LAUNCH = Path(__file__).parents[2] / "scripts" / "launch"
RUN = ["train", str(LAUNCH.parents[1] / "configs" / "sd15.yaml"), "data.class_noun=a big dog", "run_dir=runs/dog"]


@pytest.fixture
def machine(tmp_path):
    """A place where programs can be put that take down how they were called."""

    class Machine:
        home = tmp_path
        environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}

        def program(self, name, then="pass"):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                f"#!{sys.executable}\nimport json, os, sys\n"
                f"with open({str(tmp_path / 'calls.jsonl')!r}, 'a') as file:\n"
                f"    file.write(json.dumps([{name.split('/')[-1]!r}, *sys.argv[1:]]) + '\\n')\n{then}\n"
            )
            path.chmod(0o755)

        def run(self, *command, **environment):
            return subprocess.run(
                list(command),
                env=self.environment | environment,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

        def calls(self, name):
            path = tmp_path / "calls.jsonl"
            lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
            return [line[1:] for line in lines if line[0] == name]

    return Machine()


@pytest.mark.parametrize("path", [*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")], ids=lambda path: path.name)
def test_shell_parses_and_stops_at_errors(path):
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    assert "\nset -euo pipefail\n" in path.read_text()


def test_slurm_starts_the_command_that_it_is_given(machine):
    machine.program("srun")
    ended = machine.run("bash", str(LAUNCH / "slurm.sbatch"), *RUN, SLURM_SUBMIT_DIR=str(machine.home))
    assert ended.returncode == 0, ended.stderr
    (call,) = machine.calls("srun")
    program = call.index(f"{machine.home}/venv/bin/dreambooth-jax")
    assert call[:program] == ["--kill-on-bad-exit=1"]
    assert call[program + 1 :] == RUN
    assert read_call(VERBS[RUN[0]], call[program + 2 :]).settings.data.class_noun == "a big dog"


def test_slurm_asks_for_a_task_for_each_gpu():
    options = dict(
        line.removeprefix("#SBATCH --").split("=", 1)
        for line in (LAUNCH / "slurm.sbatch").read_text().splitlines()
        if line.startswith("#SBATCH --")
    )
    assert options["gpus-per-node"] == options["ntasks-per-node"]
    assert options["signal"].startswith("TERM@")


def tpu(machine, *arguments):
    # does on this machine what a worker is told
    machine.program("gcloud", "command = [a for a in sys.argv if a.startswith('--command=')]\n"
                    "sys.exit(os.system(command[0].removeprefix('--command=')) >> 8 if command else 0)")  # fmt: skip
    return machine.run(
        "bash", str(LAUNCH / "tpu_vm.sh"), *arguments, TPU="slice", ZONE="here", SHARED=str(machine.home / "shared")
    )


def test_tpu_workers_start_the_command_that_they_are_given(machine):
    machine.program("venv/bin/dreambooth-jax")
    ended = tpu(machine, *RUN)
    assert ended.returncode == 0, ended.stderr
    (call,) = machine.calls("gcloud")
    assert call[:6] == ["compute", "tpus", "tpu-vm", "ssh", "slice", "--zone=here"]
    assert call[6] == "--worker=all"
    pid = (machine.home / "dreambooth.pid").read_text().strip()
    assert pid.isdigit()
    for _ in range(100):
        if machine.calls("dreambooth-jax"):
            break
        subprocess.run(["sleep", "0.1"], check=True)
    (started,) = machine.calls("dreambooth-jax")
    assert started == RUN


def test_tpu_launcher_without_a_verb_says_how(machine):
    ended = tpu(machine)
    assert ended.returncode == 2
    assert "tpu_vm.sh install" in ended.stdout


def test_kubernetes_pods_find_process_0(machine):
    jobset = yaml.safe_load((LAUNCH / "kubernetes.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"] == int(environment["NODES"])
    host, port = environment["COORDINATOR"].split(":")
    network = jobset["spec"]["network"]
    assert network["enableDNSHostnames"] is True
    assert host == f"{jobset['metadata']['name']}-{replicated['name']}-0-0.{network['subdomain']}"
    assert {"containerPort": int(port)} in container["ports"]

    machine.program("dreambooth-jax")
    ended = machine.run(*container["command"], *container["args"], JOB_COMPLETION_INDEX="1", **environment)
    assert ended.returncode == 0, ended.stderr
    (call,) = machine.calls("dreambooth-jax")
    call[1] = str(LAUNCH.parents[1] / call[1])
    found = read_call(VERBS[call[0]], call[1:])
    assert [found.options[name] for name in PROCESSES] == [environment["COORDINATOR"], int(environment["NODES"]), 1]
