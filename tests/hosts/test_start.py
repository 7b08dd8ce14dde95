# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Finding the other processes, or that there are none."""

import socket

import jax
import numpy as np
import pytest

from dreambooth_jax import distributed, progress
from dreambooth_jax.cli import main
from dreambooth_jax.errors import InputError
from tests.hosts.processes import free_port

SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_NODELIST": "node[001-002]",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}


@pytest.fixture
def started(monkeypatch):
    """What ``jax.distributed.initialize`` was called with, instead of doing it."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **options: calls.append(args))
    for name in ("OMPI_COMM_WORLD_SIZE", "OMPI_MCA_orte_hnp_uri", "JOB_COMPLETION_INDEX", *SLURM):
        monkeypatch.delenv(name, raising=False)
    before = jax.config.jax_enable_preemption_service
    yield calls
    jax.config.update("jax_enable_preemption_service", before)


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"coordinator": "a:1"}, "--num_processes and --process_id is missing"),
        ({"coordinator": "a:1", "num_processes": 2}, "--process_id is missing"),
        ({"process_id": 0}, "--coordinator and --num_processes is missing"),
    ],
)
def test_half_of_the_options_are_refused(started, given, missing):
    with pytest.raises(InputError, match=f"{missing}: --coordinator, --num_processes, --process_id belong together"):
        distributed.start(**given)
    assert not started


@pytest.mark.parametrize(
    ("coordinator", "num_processes", "process_id", "message"),
    [
        ("node1", 2, 0, "--coordinator node1 is not HOST:PORT"),
        ("node1:1", 2, 2, "--process_id 2 must be from 0 to --num_processes 2 less one"),
        ("node1:1", 2, -1, "--process_id -1 must be"),
        (
            "no-such-host.invalid:1",
            2,
            1,
            "--coordinator no-such-host.invalid:1: there is no host of the name no-such-host",
        ),
        (
            "no-such-host.invalid:1",
            2,
            0,
            "--coordinator no-such-host.invalid:1: there is no host of the name no-such-host",
        ),
        ("127.0.0.1:1", 2, 1, "--coordinator 127.0.0.1:1 does not answer after 0 s"),
        ("127.0.0.1:99999", 2, 0, "--coordinator 127.0.0.1:99999 is not HOST:PORT"),
        ("127.0.0.1:0", 2, 0, "--coordinator 127.0.0.1:0 is not HOST:PORT"),
    ],
)
def test_what_cannot_be_is_one_line(started, coordinator, num_processes, process_id, message):
    with pytest.raises(InputError, match=message) as error:
        distributed.start(coordinator, num_processes, process_id, patience=0)
    assert "\n" not in str(error.value)
    assert not started


@pytest.mark.parametrize("process_id", [0, 1])
def test_a_misspelt_name_is_said_long_before_the_others_would_be_given_up(started, monkeypatch, process_id):
    monkeypatch.setattr(distributed, "NAME_PATIENCE", 0)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(InputError, match="no host of the name nonsense.invalid"):
        distributed.start("nonsense.invalid:99", 2, process_id)
    assert not started


def test_a_pod_whose_name_comes_late_is_waited_for(started, monkeypatch):
    monkeypatch.setattr(distributed, "NAME_PATIENCE", 0)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    asked = []

    def getaddrinfo(host, port, *rest):
        asked.append(host)
        if len(asked) < 3:
            raise socket.gaierror(-2, "Name or service not known")
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    distributed.start(f"pod-0.set:{free_port()}", 2, 0, patience=5)
    assert asked == ["pod-0.set"] * 3
    assert started


def test_who_waits_is_told_for_what(started, monkeypatch, caplog):
    monkeypatch.setattr(progress, "SILENCE", 0.1)
    with caplog.at_level("INFO"), pytest.raises(InputError, match="does not answer"):
        distributed.start(f"127.0.0.1:{free_port()}", 2, 1, patience=1)
    assert "waiting for 127.0.0.1:" in caplog.text


def test_a_port_that_is_taken_is_said(started):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"process 0 cannot listen on port {port}"):
            distributed.start(f"127.0.0.1:{port}", 2, 0)
    assert not started


def test_a_coordinator_that_answers_late_is_waited_for(started):
    port = free_port()
    with socket.socket() as coordinator:
        coordinator.bind(("127.0.0.1", port))
        coordinator.listen()
        distributed.start(f"127.0.0.1:{port}", 2, 1, patience=5)
    assert started == [(f"127.0.0.1:{port}", 2, 1)]


def test_one_process_needs_nobody(started):
    distributed.start()
    distributed.start("127.0.0.1:1", 1, 0)
    assert not started
    assert distributed.is_main()
    distributed.barrier("nobody else")
    np.testing.assert_array_equal(distributed.gather(np.arange(3)), [[0, 1, 2]])


@pytest.mark.parametrize(("tasks", "joins"), [("1", False), ("2", True)])
def test_slurm_joins_only_where_there_are_several_tasks(started, monkeypatch, tasks, joins):
    for name, value in (SLURM | {"SLURM_NTASKS": tasks}).items():
        monkeypatch.setenv(name, value)
    distributed.start()
    assert started == ([(None, None, None)] if joins else [])


@pytest.mark.parametrize(("size", "joins"), [("1", False), ("4", True)])
def test_open_mpi_joins_only_where_there_are_several_ranks(started, monkeypatch, size, joins):
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "1531576320.0;tcp://10.96.0.1:34911")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", size)
    distributed.start()
    assert started == ([(None, None, None)] if joins else [])


def test_ranks_that_cannot_find_each_other_do_not_each_run_alone(started, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    with pytest.raises(InputError, match=r"--process_id \$OMPI_COMM_WORLD_RANK"):
        distributed.start()
    assert not started


def test_a_pod_that_is_no_job_runs_alone(started, monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    distributed.start()
    assert not started


def test_what_jax_cannot_do_is_an_error_of_the_user(started, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("distributed.initialize should only be\ncalled once.")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(InputError, match=r"2 processes did not find each other: distributed.initialize .* called once"):
        distributed.start(f"127.0.0.1:{free_port()}", 2, 0)


@pytest.mark.parametrize("verb", ["train", "prior"])
def test_the_command_line_refuses_half_of_the_options_too(started, capsys, verb):
    assert main([verb, "--coordinator", "node1:1", "train.steps=3"]) == 2
    assert "dreambooth-jax: --num_processes and --process_id is missing" in capsys.readouterr().err
    assert not started


def test_a_misspelt_option_is_proposed(capsys):
    assert main(["train", "--coordinater=node1:1"]) == 2
    assert "unknown key coordinater; did you mean coordinator?" in capsys.readouterr().err
