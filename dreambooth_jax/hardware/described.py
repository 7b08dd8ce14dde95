# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Devices that are not there, described to the compilers of XLA: programs compile for them as for real ones.

    h100  h100:8  h100:2x8 (hosts x cards)  v5e (one chip)  v5e:2x4  v4:2x2x4 (chips along each side of the slice)

What compiles reserves the bytes that a real device reserves, and what a compiler refuses a real device refuses. Nothing
runs. For want of memory only the TPUs' compiler refuses; compare what a program needs of a GPU with ``Chip.memory``.
"""

import os
import re
from importlib.util import find_spec
from math import prod
from typing import Any

from dreambooth_jax.errors import InputError, nearest
from dreambooth_jax.hardware.chips import CHIPS, GPU, TPU, Chip

# XLA times kernels on the device to choose among them; here is none. Untimed, Triton's products do not compile.
_GPU_FLAGS = ("--xla_gpu_autotune_level=0", "--xla_gpu_enable_triton_gemm=false")
_MOST_CARDS = 8
_MOST_HOSTS = 1024


def environment(name: str) -> dict[str, str]:
    """Variables that a fresh process must have, before it imports jax, to ``describe(name)`` and compile for it.

    Whatever ``XLA_FLAGS`` this process has go first in those for the fresh one.
    """
    chip, _ = _parse(name)
    quiet = {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if isinstance(chip.details, GPU):
        flags = os.environ.get("XLA_FLAGS", "").split()
        return quiet | {"XLA_FLAGS": " ".join(flags + [flag for flag in _GPU_FLAGS if flag not in flags])}
    return quiet | {
        "TPU_SKIP_MDS_QUERY": "1",  # ask no metadata server what this machine is
        "TPU_ACCELERATOR_TYPE": chip.details.accelerator,
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # otherwise one process at a time, kept apart by a lock file
        "TPU_MIN_LOG_LEVEL": "3",
        "TPU_STDERR_LOG_LEVEL": "3",
    }


def describe(name: str) -> tuple[Chip, list[Any]]:
    """The chip and the ``jax.Device`` objects of a name; a device's ``process_index`` is the number of its host.

    On TPUs of several hosts each has four chips; slices of eight v5e or v6e (2x4) are one host, as Cloud TPU lends
    them.
    """
    chip, shape = _parse(name)
    if isinstance(chip.details, GPU):
        arguments = _gpu_arguments(chip, chip.details, shape)
    else:
        arguments = _tpu_arguments(chip, chip.details, shape)

    from jax.experimental import topologies

    try:
        return chip, list(topologies.get_topology_desc(**arguments).devices)
    except (RuntimeError, NotImplementedError) as error:  # jax.errors.JaxRuntimeError is a RuntimeError
        raise InputError(f"{name}: the compiler knows no such devices: {' '.join(str(error).split())}") from error


def _parse(name: str) -> tuple[Chip, tuple[int, ...]]:
    """``h100:2x8`` -> (CHIPS["h100"], (2, 8)); for TPUs always as many numbers as its topologies have."""
    kind, _, sizes = name.partition(":")
    if kind not in CHIPS:
        names = f"{', '.join(CHIPS)}, for example h100:8{nearest(kind, CHIPS)}"
        raise InputError(f"devices {name!r}: no chip {kind!r} is known; one of {names}")
    chip = CHIPS[kind]
    numbers = 2 if isinstance(chip.details, GPU) else chip.details.sides
    if ":" not in name:
        return chip, (1,) * numbers
    shape = tuple(map(int, sizes.split("x"))) if re.fullmatch(r"[1-9]\d{0,4}(x[1-9]\d{0,4})*", sizes) else ()
    if isinstance(chip.details, GPU):
        shape = (1, *shape) if len(shape) == 1 else shape
        if len(shape) != numbers:
            raise InputError(
                f"devices {name!r}: {sizes!r} is neither cards nor hosts x cards; for example {kind}:8, {kind}:2x8"
            )
        if shape[1] > _MOST_CARDS or shape[0] > _MOST_HOSTS:
            most = f"{_MOST_CARDS} cards in each of {_MOST_HOSTS} hosts"
            raise InputError(f"devices {name!r}: at most {most}; for example {kind}:2x8 for 16 cards")
        return chip, shape
    if len(shape) != numbers:
        example = "x".join("221"[:numbers])
        raise InputError(
            f"devices {name!r}: a slice of {kind} has {numbers} sides, not {sizes!r}; for example {kind}:{example}"
        )
    if prod(shape) > chip.details.largest:
        raise InputError(f"devices {name!r}: {prod(shape)} chips; a slice of {kind} has up to {chip.details.largest}")
    return chip, shape


def _gpu_arguments(chip: Chip, gpu: GPU, shape: tuple[int, ...]) -> dict[str, Any]:
    if not any(_installed(f"jax_plugins.xla_cuda{version}") for version in (13, 12)):
        raise InputError(
            f"{chip.name}: the compiler for NVIDIA GPUs is not installed: pip install 'dreambooth_jax[plan-cuda]'"
        )
    missing = [flag for flag in _GPU_FLAGS if flag.split("=")[0] not in os.environ.get("XLA_FLAGS", "")]
    if missing:
        raise InputError(
            f"{chip.name}: XLA_FLAGS must have {' '.join(missing)} before jax starts, for nothing can be timed"
        )
    hosts, cards = shape
    return {
        "platform": "cuda",
        "topology_name": chip.name,
        "topology": f"1x{hosts}x{cards}",
        "target_config": target_config(chip, gpu),
    }


def target_config(chip: Chip, gpu: GPU) -> str:
    """XLA's ``GpuTargetConfigProto`` of a chip as text."""
    major, minor = chip.generation.split(".")
    extension = "ACCELERATED_FEATURES" if gpu.accelerated else "NONE"
    return f"""
        gpu_device_info {{
          cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {extension} }}
          threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: {gpu.threads}
          thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          core_count: {gpu.cores} fpus_per_core: {gpu.units} clock_rate_ghz: {gpu.clock}
          registers_per_core_limit: 65536 registers_per_block_limit: 65536
          shared_memory_per_core: {gpu.shared} shared_memory_per_block: 49152
          shared_memory_per_block_optin: {gpu.shared_per_block} l2_cache_size: {gpu.l2}
          memory_bandwidth: {int(chip.bandwidth)} device_memory_size: {chip.memory}
        }}
        platform_name: "CUDA"
        dnn_version_info {{ major: 9 minor: 10 }}
        device_description_str: "{chip.kind}"
    """


def _tpu_arguments(chip: Chip, tpu: TPU, shape: tuple[int, ...]) -> dict[str, Any]:
    host = tpu.host
    if prod(shape) == 1:
        host = (1, 1, 1)
    elif shape == (2, 4):
        host = (2, 4, 1)
    sides = "x".join(map(str, shape))
    if any(side % chips for side, chips in zip(shape, host, strict=False)):  # hosts are flat: the third side is free
        more = "x".join("442"[: tpu.sides])
        raise InputError(f"{chip.name}:{sides}: hosts of 2x2 chips do not fill it; for example {chip.name}:{more}")
    if not _installed("libtpu"):
        raise InputError(f"{chip.name}: the compiler for TPUs is not installed: pip install 'dreambooth_jax[plan-tpu]'")
    arguments: dict[str, Any] = {
        "platform": "tpu",
        "topology_name": f"{chip.generation}:{sides}",
        "chips_per_host_bounds": host,
    }
    if (
        tpu.megacore
    ):  # as jax runs on them; unasked, libtpu describes a v4 as a device for each core with half the memory
        arguments["chip_config_name"] = "megacore"
    return arguments


def _installed(module: str) -> bool:
    """Whether a module can be imported, without importing it."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its package is not there either
        return False
