# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Several processes, usually one on each host, that run the same program on parts of the same arrays.

    start()     before any device is used: find the other processes
    is_main()   process 0 alone writes what there is one of
    barrier()   wait for all
    on_main()   process 0 does something, for which all wait
    gather()    a small value of every process, on every process
    said_anywhere()   what some process has to say, on every process
    all_are_here()    have all come to the same point, where one of them may have failed?

Where there is one process, all of them do nothing. Everything that more than one process decides (to stop, to resume,
to encode again) it decides by a gathered value, so that all go the same way; a process that went alone would leave the
others waiting in their next common program.
"""

import itertools
import os
import re
import socket
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from dreambooth_jax.errors import InputError
from dreambooth_jax.progress import announced

PATIENCE = 300
"""Seconds to wait for the other processes at the start; on some clusters hosts come up minutes apart."""
NAME_PATIENCE = 20
"""Seconds to wait for the coordinator's name. A pod of Kubernetes has one only when it is started: there, PATIENCE."""
FAREWELL = 30
"""Seconds that a process which ends waits for the others to end too: one that fails alone then ends them all."""
TEXT_BYTES = 500
"""Of a text that a process tells others."""
_meetings = itertools.count()


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    patience: int = PATIENCE,
) -> None:
    """Join the other processes of this run, if there are any; to be called before any device is used.

    Without arguments jax looks whether it is on a TPU pod or was started by SLURM, Open MPI or an indexed Kubernetes
    job, and with more than one process; otherwise, as on a single TPU VM, nothing happens.

    Args:
        coordinator: host:port of process 0, the same for all.
        num_processes: how many there are.
        process_id: which of them this is, from 0.
        patience: seconds to wait for the coordinator.

    Raises:
        InputError: if the arguments are not all there or do not fit each other, or the coordinator is not reached.
    """
    given = {"--coordinator": coordinator, "--num_processes": num_processes, "--process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise InputError(f"{' and '.join(missing)} is missing: {', '.join(given)} belong together")
    count = _found_processes() if num_processes is None else num_processes
    if count == 1 or jax.distributed.is_initialized():
        return
    if coordinator is not None and process_id is not None:
        _check(coordinator, count, process_id)
        _wait_for_name(
            coordinator, patience if "KUBERNETES_SERVICE_HOST" in os.environ else min(patience, NAME_PATIENCE)
        )
        with announced(f"waiting for {coordinator}", usually=f"until process 0 is started there, at most {patience} s"):
            _wait_for(coordinator, patience) if process_id else _check_port(coordinator)
    # A signal that ends the run is for training/interrupt.py to note, not for jax.
    jax.config.update("jax_enable_preemption_service", False)
    waiting = announced(
        f"waiting for all {count} processes", usually=f"until the last is started, at most {patience} s"
    )
    try:
        with waiting:
            jax.distributed.initialize(
                *(coordinator, num_processes, process_id),
                initialization_timeout=patience,
                shutdown_timeout_seconds=FAREWELL,
            )
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"the {count} processes did not find each other: {' '.join(str(error).split())}") from error


def _found_processes() -> int:
    """What jax's own detection counts; 1 where it detects no cluster.

    ``jax.distributed.initialize`` itself cannot be asked: it would also start on one process, and on SLURM show it one
    GPU of the host's.
    """
    from jax._src.clusters import ClusterEnv

    for cluster in ClusterEnv._cluster_types:
        # Its own answer also means a pod that is no part of a job, in which it then finds no count.
        alone = cluster.__name__ == "K8sCluster" and "JOB_COMPLETION_INDEX" not in os.environ
        if not alone and not cluster.opt_in_only_method and cluster.is_env_present():
            return int(cluster.get_process_count())
    if int(os.environ.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:  # Open MPI 5 says no address that jax could read
        raise InputError(
            "mpirun started several processes, but jax finds no address for them: add --coordinator HOST:PORT "
            "--num_processes $OMPI_COMM_WORLD_SIZE --process_id $OMPI_COMM_WORLD_RANK"
        )
    return 1


def _check(coordinator: str, num_processes: int, process_id: int) -> None:
    if not re.fullmatch(r".+:\d{1,5}", coordinator) or not 0 < int(coordinator.rsplit(":", 1)[1]) < 2**16:
        raise InputError(
            f"--coordinator {coordinator} is not HOST:PORT, such as 10.0.0.1:8476, with a port below 65536"
        )
    if not 0 <= process_id < num_processes:
        raise InputError(f"--process_id {process_id} must be from 0 to --num_processes {num_processes} less one")


def _wait_for_name(coordinator: str, patience: int) -> None:
    """A misspelt name would otherwise look like a process 0 that is not there yet."""
    host, _ = coordinator.rsplit(":", 1)
    end = time.monotonic() + patience
    while True:
        try:
            socket.getaddrinfo(host.strip("[]"), None)
            return
        except (OSError, UnicodeError) as error:
            if time.monotonic() > end:
                raise InputError(
                    f"--coordinator {coordinator}: there is no host of the name {host} ({error}; tried {patience} s)"
                ) from error
        time.sleep(0.5)


def _wait_for(coordinator: str, patience: int) -> None:
    """jax ends the whole process if it does not reach the coordinator; so see first that somebody answers there."""
    host, port = coordinator.rsplit(":", 1)
    end = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except (OSError, OverflowError) as error:
            if time.monotonic() > end:
                raise InputError(
                    f"--coordinator {coordinator} does not answer after {patience} s ({error}): "
                    "is process 0 running there, and may this host connect to the port?"
                ) from error
        time.sleep(0.2)


def _check_port(coordinator: str) -> None:
    port = int(coordinator.rsplit(":", 1)[1])
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
    except (OSError, OverflowError) as error:
        raise InputError(f"process 0 cannot listen on port {port} ({error}): choose another --coordinator") from error


def is_main() -> bool:
    """Is this the process that writes single files and talks?"""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Go on when all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def on_main(action: Callable[[], None]) -> None:
    """Have process 0 do something, and wait for it.

    Raises:
        InputError: on all processes, if it did on process 0.
    """
    error: InputError | None = None
    if is_main():
        try:
            action()
        except InputError as raised:
            error = raised
    if gather(error is not None)[0]:
        raise error or InputError("process 0 could not go on, and says why")


def gather(value: np.ndarray | np.generic | int | bool) -> np.ndarray:
    """[processes, ...]: every process's value, of the same shape and dtype on all. Waits for all.

    Args:
        value: of at most 32 bits a number: jax cuts wider ones. Row 0 of the result is a broadcast of process 0's.
    """
    value = np.asarray(value)
    if jax.process_count() == 1:
        return value[None]
    return np.asarray(multihost_utils.process_allgather(value))


def said_anywhere(texts: Sequence[str]) -> list[str]:
    """Of each text the first that is not empty, of this process or of any: the same on all but for whose it is.

    Args:
        texts: as many on all processes.
    """
    if jax.process_count() == 1 or not texts:
        return list(texts)
    rows = np.zeros((len(texts), TEXT_BYTES), np.uint8)
    for row, text in zip(rows, texts):
        cut = np.frombuffer(text.encode()[:TEXT_BYTES], np.uint8)
        row[: len(cut)] = cut
    found = list(texts)
    for number, theirs in enumerate(gather(rows)):
        for place, row in enumerate(theirs):
            if not found[place] and row.any():
                found[place] = f"process {number}: {row.tobytes().rstrip(bytes(1)).decode(errors='ignore')}"
    return found


def all_are_here(within: float | int) -> bool:
    """Do all processes call this within so many seconds? No program of theirs has to end before, so that one may ask
    which has failed while others wait for it. One that gets no for an answer has to end: it is not where they are."""
    if jax.process_count() == 1:
        return True
    from jax._src.distributed import global_state  # jax has no public barrier that knows an end

    assert global_state.client is not None
    try:
        global_state.client.wait_at_barrier(f"dreambooth_jax/{next(_meetings)}", int(1000 * within))
    except jax.errors.JaxRuntimeError:
        return False
    return True
