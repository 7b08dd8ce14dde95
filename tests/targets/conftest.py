# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Compilers run in processes of their own; without one its tests are skipped, unless CI says that it must be there."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from dreambooth_jax.hardware import environment
from tests.targets import model


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return model.write(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def compiled(folder):
    """``compiled(target, {job: [KEY=VALUE, ...]})`` -> facts of each job's program."""

    def compiled(target, jobs):
        module = "libtpu" if target[0] == "v" else "jax_cuda13_plugin"
        if find_spec(module) is None:
            if os.environ.get("DREAMBOOTH_JAX_COMPILER") == module:
                pytest.fail(f"{module} should be here")
            pytest.skip(f"{module} is not installed")
        done = subprocess.run(
            [sys.executable, "-m", "tests.targets.worker", target, str(folder), json.dumps(list(jobs.items()))],
            capture_output=True,
            text=True,
            env={name: value for name, value in os.environ.items() if not name.startswith(("XLA_", "JAX_"))}
            | environment(target),
        )
        assert done.returncode == 0, done.stderr[-5000:]
        return json.loads(done.stdout)

    return compiled
