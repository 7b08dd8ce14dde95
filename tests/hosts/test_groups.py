# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Many subjects from the command line by two processes with two devices each, which have parts of the rows of each
member and of what is frozen: what is left is what one process leaves."""

import json

import pytest

from dreambooth_jax.config import load_config
from tests import runs
from tests.hosts import processes
from tests.members.groups import assert_close, assert_identical

pytestmark = pytest.mark.slow  # each process compiles everything

NAMES = ("cat", "dog", "hat")
SETTINGS = [
    *(f"model.path={runs.MODEL}", "data.resolution=16", "prior.num_images=0", "optimizer.learning_rate=1e-2"),
    *("adapter.kind=lora", "adapter.rank=2", "adapter.targets=attn-only", "text_encoder.stop=0", "train.steps=6"),
    *("train.log_every=1", "train.batch_size=2", "checkpoint.every=100", "train.parallel=fsdp"),
    *("samples.every=6", "samples.steps=1", "samples.num_images=1", "samples.class_prompts=[]"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("groups")
    for number, name in enumerate(NAMES):
        runs.draw_photos(root / "photos" / name, 2 + number)
    runs.draw_photos(root / "classes", 2)
    return root


def run(root, folder, *, n=2, devices=2, module="dreambooth_jax"):
    """[(exit code, stdout, stderr)] of the command line, or of a module that is like it, on n processes."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(root / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    places = [f"data.subjects={root / 'photos'}", f"prior.class_images={root / 'classes'}", f"run_dir={root / folder}"]
    return processes.run(
        ["-m", module, "train", *SETTINGS, *places], processes=n, devices=devices, environment=cache, timeout=500
    )


@pytest.fixture(scope="module")
def by_two(root):
    """(folder, what the processes said)"""
    return root / "two", run(root, "two")


def test_the_result_is_that_of_one_process(root, by_two):
    folder, _ = by_two
    run(root, "one", n=1, devices=4)
    for name in NAMES:
        config = load_config(root / "one" / "jobs" / f"{name}.yaml")
        assert_close(folder / "subjects" / name, root / "one" / "subjects" / name, config)
    found, expected = (json.loads((path / "overview.json").read_text())["members"] for path in (folder, root / "one"))
    assert [(one["name"], one["step"], one["finished"]) for one in found] == [(name, 6, True) for name in NAMES]
    for one, other in zip(found, expected, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], rel=1e-4)
    assert (folder / "grid.png").exists()


def test_process_0_alone_speaks(by_two):
    (_, out, err), (_, other_out, other_err) = by_two[1]
    assert str(by_two[0]) in out
    assert "3 members take their steps together, computing in float32 on 4 x cpu" in err
    assert not [line for text in (other_out, other_err) for line in text.splitlines() if "members" in line]


def test_a_signal_to_one_saves_all_and_the_rest_is_bit_identical(root, by_two):
    run(root, "stopped", module="tests.hosts.killed")
    assert [*(root / "stopped" / "groups").glob("*/checkpoints/*")], "they have stopped on the way"
    assert not (root / "stopped" / "overview.md").exists()
    run(root, "stopped")
    for name in NAMES:
        assert_identical(root / "stopped" / "subjects" / name, by_two[0] / "subjects" / name)
