# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""XLA reads its flags once in a process, so most of this is tried in new ones."""

import os
import subprocess
import sys

import pytest

from dreambooth_jax import deterministic
from dreambooth_jax.config import Config, to_dict
from dreambooth_jax.deterministic import FLAGS, HELPFUL, make_deterministic
from dreambooth_jax.errors import InputError
from dreambooth_jax.training.resume import changed_keys
from tests.runs import assert_same, tiny_config, weights

FIRST, SECOND = FLAGS
ON = [f"--{flag}={value}" for flag, value in (FLAGS | HELPFUL).items()]
GPU = "from dreambooth_jax import deterministic; deterministic._may_have_gpu = lambda: True\n"
"""There is none, but this is what is asked before the backend starts."""
TELL = "import os; print(os.environ.get('XLA_FLAGS'), os.environ.get('NCCL_ALGO'), sep=';')\n"


def python(code, **environment):
    """What a new process prints, without the flags of the tests."""
    kept = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "NCCL_ALGO")}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_flags_are_set_and_known_to_xla():
    """An unknown flag would end the process when jax computes."""
    one = "import jax; print(jax.numpy.ones(2).sum(), jax.config.jax_persistent_cache_enable_xla_caches)\n"
    told, result = python(GPU + "deterministic.make_deterministic()\n" + TELL + one).splitlines()
    flags, nccl = told.split(";")
    assert flags.split() == ON
    assert nccl == "^NVLS"
    assert result == "2.0 none"  # kernels that were once picked by timing would be taken first


def test_what_the_user_set_stays_and_twice_is_once():
    twice = GPU + 2 * "deterministic.make_deterministic()\n" + TELL
    mine = f"--xla_dump_to=/nowhere --{FIRST} --xla_gpu_enable_triton_gemm=true"
    flags, nccl = python(twice, XLA_FLAGS=mine, NCCL_ALGO="Ring").split(";")
    assert flags == f"{mine} {ON[1]}"
    assert nccl == "Ring"


def test_the_command_sets_them_before_jax_starts(tmp_path):
    code = GPU + (
        "from dreambooth_jax.errors import InputError\n"
        "import dreambooth_jax.cli.train as verb\n"
        "from dreambooth_jax.cli import main\n"
        "from jax._src import xla_bridge\n"
        "def join(options): assert not xla_bridge.backends_are_initialized(); raise InputError('far enough')\n"
        "verb.join_processes = join\n"
        "assert main(['train', 'train.deterministic={}']) == 2\n"
    )
    assert python(code.format("true") + TELL).startswith(ON[0])
    assert python(code.format("false") + TELL) == "None;None"


def test_without_a_gpu_nothing_is_set():
    assert (
        python(GPU.split(";")[0] + "\ndeterministic.make_deterministic()\n" + TELL, JAX_PLATFORMS="cpu") == "None;None"
    )


def test_a_gpu_that_runs_already_is_too_late(monkeypatch):
    monkeypatch.setattr(deterministic, "_running", lambda: "gpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/nowhere")
    with pytest.raises(InputError, match=rf"make_deterministic.*{' '.join(ON)}") as error:
        make_deterministic()
    assert "\n" not in str(error.value)
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=/nowhere"


def test_a_gpu_that_runs_with_the_flags_is_not():
    same = "deterministic._running = lambda: 'gpu'\ndeterministic.make_deterministic()\n"
    assert python(GPU + same + TELL, XLA_FLAGS=" ".join(ON[:2])) == f"{ON[0]} {ON[1]};^NVLS"


def test_flags_that_say_the_opposite_are_named(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"--{FIRST}=false")
    with pytest.raises(InputError, match=f"XLA_FLAGS has --{FIRST}=false"):
        make_deterministic()


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_where_results_are_equal_anyway_it_is_never_too_late(monkeypatch, platform):
    monkeypatch.setattr(deterministic, "_running", lambda: platform)
    before = dict(os.environ)
    make_deterministic()
    assert dict(os.environ) == before


def test_a_run_may_switch_it():
    on, off = to_dict(Config()), to_dict(Config())
    on["train"]["deterministic"] = True
    del off["train"]["deterministic"]  # a checkpoint from before there was the setting
    assert changed_keys(off, on) == changed_keys(on, off) == []


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_on_a_cpu_a_run_is_the_same_with_it(tmp_path):
    """And so twice the same: two runs that draw everything anew, but for the class images."""
    from dreambooth_jax.trainer import train

    short = ("train.steps=2", "checkpoint.every=2", "prior.num_images=2")
    results = []
    for name, setting in {"a": "false", "b": "true"}.items():
        folder = train(
            tiny_config(tmp_path, *short, f"run_dir={tmp_path / name}", f"train.deterministic={setting}")
        ).folder
        results.append(weights(folder, 2))
    assert_same(*results)
