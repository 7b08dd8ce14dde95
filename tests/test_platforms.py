# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Only where a compiler is installed and its device is not there is jax told not to look."""

import os
from types import SimpleNamespace

import pytest

from dreambooth_jax import platforms


@pytest.fixture
def machine(monkeypatch):
    """Say what is installed, which files there are and which variables are set; get what jax is told."""

    def machine(*, plugins=(), libtpu=False, files=(), **variables):
        for name in ("JAX_PLATFORMS", *platforms._TPU_VARIABLES):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(platforms, "entry_points", lambda group: [SimpleNamespace(name=name) for name in plugins])
        monkeypatch.setattr(platforms, "find_spec", lambda name: libtpu or None)
        monkeypatch.setattr(platforms.glob, "glob", lambda pattern: [name for name in files if name in pattern])
        platforms.leave_out_absent()
        return os.environ.get("JAX_PLATFORMS")

    return machine


@pytest.mark.parametrize("installed", [{"plugins": ["xla_cuda13"]}, {"libtpu": True}])
def test_a_compiler_without_its_device_is_not_asked(machine, installed):
    assert machine(**installed) == "cpu"


@pytest.mark.parametrize(
    "there",
    [
        {"plugins": ["xla_cuda13"], "files": ["/dev/nvidia"]},
        {"plugins": ["xla_cuda13"], "files": ["/dev/dxg"]},
        {"libtpu": True, "files": ["/dev/accel"]},
        {"libtpu": True, "TPU_WORKER_ID": "0"},
        {"plugins": ["rocm7"]},
        {"plugins": ["xla_cuda13", "metal"]},
        {},
    ],
)
def test_whatever_may_be_there_jax_finds_itself(machine, there):
    assert machine(**there) is None


def test_what_the_user_says_stays(machine):
    assert machine(plugins=["xla_cuda13"], JAX_PLATFORMS="cuda") == "cuda"
