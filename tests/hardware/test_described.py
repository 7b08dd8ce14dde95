# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Names of devices: what they mean, what is wrong with wrong ones, and (slow, where the compilers are) the devices."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from dreambooth_jax.errors import InputError
from dreambooth_jax.hardware import CHIPS, describe, environment
from dreambooth_jax.hardware import described as module


@pytest.mark.parametrize("name", ["h100", "a100-40:4", "h100:2x8"])
def test_gpus_get_flags_after_those_that_are_there(monkeypatch, name):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=somewhere --xla_gpu_autotune_level=0")
    flags = environment(name)["XLA_FLAGS"].split()
    assert flags == [
        "--xla_dump_to=somewhere",
        "--xla_gpu_autotune_level=0",
        "--xla_gpu_enable_triton_gemm=false",
    ]
    monkeypatch.setenv("XLA_FLAGS", " ".join(flags))
    assert environment(name)["XLA_FLAGS"].split() == flags


@pytest.mark.parametrize("name", ["v5e", "v5e:16x16", "v4:2x2x1", "v6e:2x2", "v5p:4x4x4"])
def test_tpus_are_asked_of_no_server_and_shared(name):
    variables = environment(name)
    assert variables["TPU_SKIP_MDS_QUERY"] == "1"
    assert variables["ALLOW_MULTIPLE_LIBTPU_LOAD"] == "1"
    assert variables["TPU_ACCELERATOR_TYPE"].startswith({"v5e": "v5litepod"}.get(name[:3], name.split(":")[0]))
    assert "XLA_FLAGS" not in variables


@pytest.mark.parametrize("name", CHIPS)
def test_the_process_itself_runs_on_its_cpu(name):
    variables = environment(name)
    assert variables["JAX_PLATFORMS"] == "cpu"
    assert all(isinstance(value, str) for value in variables.values())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("h1000:8", r"devices 'h1000:8': no chip 'h1000' is known; one of t4, a100-40, .*, v6e, for example h100:8"),
        ("", "no chip '' is known"),
        ("h100:", "devices 'h100:': '' is neither cards nor hosts x cards; for example h100:8, h100:2x8"),
        ("h100:0", "'0' is neither cards"),
        ("h100:2x2x8", "'2x2x8' is neither cards"),
        ("h100:eight", "'eight' is neither cards"),
        ("h100:-1", "'-1' is neither cards"),
        ("l4:16", "devices 'l4:16': at most 8 cards in each of 1024 hosts; for example l4:2x8 for 16 cards"),
        ("v5e:4", "devices 'v5e:4': a slice of v5e has 2 sides, not '4'; for example v5e:2x2"),
        ("v4:2x2", "a slice of v4 has 3 sides, not '2x2'; for example v4:2x2x1"),
        ("v5e:2x", "has 2 sides, not '2x'"),
        ("v6e:32x32", "1024 chips; a slice of v6e has up to 256"),
    ],
)
def test_wrong_names_are_told_in_one_line(name, told):
    for ask in (describe, environment):
        with pytest.raises(InputError, match=told) as caught:
            ask(name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["v5e:3x5", "v5e:1x2", "v4:1x2x4"])
def test_slices_that_hosts_do_not_fill_are_refused(name):
    with pytest.raises(InputError, match=f"{name}: hosts of 2x2 chips do not fill it; for example"):
        describe(name)


@pytest.mark.parametrize(("name", "extra"), [("h100:8", "plan-cuda"), ("v5e", "plan-tpu")])
def test_missing_compilers_name_the_extra(monkeypatch, name, extra):
    monkeypatch.setattr(module, "find_spec", lambda module: None)
    with pytest.raises(InputError, match=rf"not installed: pip install 'dreambooth_jax\[{extra}\]'"):
        describe(name)


def test_without_its_flags_no_gpu_is_described(monkeypatch):
    monkeypatch.setattr(module, "_installed", lambda module: True)
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=0")
    with pytest.raises(InputError, match="XLA_FLAGS must have --xla_gpu_enable_triton_gemm=false before jax starts"):
        describe("h100")


def test_target_configs_hold_the_numbers_of_the_table():
    for chip in CHIPS.values():
        if isinstance(chip.details, module.GPU):
            text = module.target_config(chip, chip.details)
            assert text.count("{") == text.count("}")
            major, minor = chip.generation.split(".")
            for line in (f"device_memory_size: {chip.memory} ", f"major: {major} minor: {minor} ", f'"{chip.kind}"'):
                assert line.strip() in text


CODE = """
import json, sys
from dreambooth_jax.hardware import describe
chip, devices = describe(sys.argv[1])
print(json.dumps([chip.kind, [device.device_kind for device in devices], [device.process_index for device in devices]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "hosts", "each"),
    [
        ("h100", 1, 1), ("h100:8", 1, 8), ("h100:2x8", 2, 8), ("a100-40:4", 1, 4), ("b200:8", 1, 8), ("l4", 1, 1),
        ("v5e", 1, 1), ("v5e:1x1", 1, 1), ("v5e:2x2", 1, 4), ("v5e:2x4", 1, 8), ("v5e:16x16", 64, 4),
        ("v4:2x2x1", 1, 4), ("v5p:2x2x2", 2, 4), ("v6e:2x2", 1, 4),
    ],
)  # fmt: skip
def test_devices_of_a_name(name, hosts, each):
    if find_spec("libtpu" if name.startswith("v") else "jax_cuda13_plugin") is None:
        pytest.skip("the compiler is not installed")
    variables = {**os.environ, **environment(name)}
    run = subprocess.run([sys.executable, "-c", CODE, name], env=variables, capture_output=True, text=True, check=True)
    kind, kinds, processes = json.loads(run.stdout)
    assert kinds == [kind] * hosts * each
    assert processes == [host for host in range(hosts) for _ in range(each)]
