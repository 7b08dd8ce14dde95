# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A disk that is full: one line says where, and neither Orbax's threads nor TensorBoard's drown it."""

import os
import subprocess
import sys

import pytest

from tests.runs import MODEL, draw_photos

pytestmark = pytest.mark.slow  # two processes that compile

LIMITED = """
import resource, signal, sys
from dreambooth_jax.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(("limit", "place"), [(300_000, "checkpoints"), (200, "")])
def test_it_is_told_once(tmp_path, limit, place):
    """A limit on the size of files makes writes fail as a full disk does; what is compiled is not kept."""
    settings = [f"model.path={MODEL}", f"data.instance_images={draw_photos(tmp_path / 'photos')}"]
    settings += ["data.class_noun=dog", "data.resolution=16", "prior.weight=0", "train.steps=2", "train.batch_size=1"]
    settings += ["samples.every=0", f"run_dir={tmp_path / 'run'}"]
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), "train", *settings],
        env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr, ended.stderr
    assert "never retrieved" not in ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("dreambooth-jax: ")]
    assert str(tmp_path / "run" / place) in line
    assert len(ended.stderr.splitlines()) < 40, ended.stderr
