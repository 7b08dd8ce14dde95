# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Compilers for GPUs and TPUs may be installed where there is neither; jax then need not look for them.

It would find nothing, say so in twenty lines, and go on with the CPU.
"""

import glob
import os
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

# Linux, containers of CUDA, Windows' subsystem, Jetson
_NVIDIA = ("/dev/nvidia*", "/dev/dxg", "/dev/nvhost-gpu", "/dev/nvmap")
_TPU = ("/dev/accel*", "/dev/vfio/[0-9]*")
_TPU_VARIABLES = ("TPU_NAME", "TPU_WORKER_ID", "TPU_ACCELERATOR_TYPE", "TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES")
_GOOGLE = "0x1ae0"
"""PCI's number of the vendor."""


def leave_out_absent() -> None:
    """Have jax start on the CPU at once, where only compilers of devices that are not there could be asked.

    For programs that own their process, before they import jax. What the user says in ``JAX_PLATFORMS`` stays, and a
    plugin of any other kind of device is left to find its own.
    """
    plugins = [plugin.name for plugin in entry_points(group="jax_plugins")]
    known = all("cuda" in name for name in plugins)
    if known and (plugins or find_spec("libtpu")) and not _nvidia() and not _tpu():
        os.environ.setdefault("JAX_PLATFORMS", "cpu")


def _there(patterns: tuple[str, ...]) -> bool:
    return any(glob.glob(pattern) for pattern in patterns)


def _nvidia() -> bool:
    return _there(_NVIDIA)


def _tpu() -> bool:
    vendors = (Path(path).read_text().strip() for path in glob.glob("/sys/bus/pci/devices/*/vendor"))
    return _there(_TPU) or any(name in os.environ for name in _TPU_VARIABLES) or _GOOGLE in vendors
