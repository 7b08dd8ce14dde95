# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Many members hold many files open: as many as the system lets a process have, and no more than is needed."""

import subprocess
import sys

import pytest

from tests.runs import MODEL

pytestmark = pytest.mark.slow

MEMBERS = 300
"""None has photos, so that nothing is trained; all are locked before that is found."""
CODE = f"""
import resource, sys
from dataclasses import replace
from dreambooth_jax.config import load_config
from dreambooth_jax.errors import InputError
from dreambooth_jax.members import Member
from dreambooth_jax.trainer.members import run_group
from pathlib import Path

folder, hard = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
settings = ["data.instance_images=" + str(folder / "none"), "data.class_noun=dog", "adapter.kind=lora"]
config = load_config(None, [*settings, "model.path={MODEL}"])
group = [Member(name=str(i), config=replace(config, run_dir=str(folder / str(i)))) for i in range({MEMBERS})]
try:
    print(sum("none" in one.stopped for one in run_group(group, folder / "groups")))
except InputError as error:
    print(error)
"""


def said(folder, hard):
    found = subprocess.run(
        [sys.executable, "-c", CODE, str(folder), str(hard)], check=True, capture_output=True, text=True, timeout=500
    )
    return found.stdout.strip()


def test_more_members_than_files_may_be_open_at_first(tmp_path):
    assert said(tmp_path, 4096) == str(MEMBERS)
    assert not [*tmp_path.iterdir()], "no lock is left"


def test_where_the_system_allows_no_more_it_is_said_what_helps(tmp_path):
    assert "Too many open files: raise the limit (ulimit -n), or train fewer at once" in said(tmp_path, 256)
    assert not [*tmp_path.iterdir()]
