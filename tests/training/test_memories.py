# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What no step takes lies in the host's memory, where devices have one of their own, and nothing else is other."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import dreambooth_jax as dbx
from dreambooth_jax import train_setup
from dreambooth_jax.memory import bytes_per_device
from dreambooth_jax.pipeline import describe_pretrained
from dreambooth_jax.planning.admit import state_bytes
from dreambooth_jax.target import Arch, Target
from dreambooth_jax.train_setup import TrainSetup
from dreambooth_jax.trainer import run
from dreambooth_jax.training.parallel.memories import on_devices, on_host
from dreambooth_jax.trees import nbytes
from tests.runs import MODEL, assert_same, tiny_config, weights

GPU = property(lambda target: Arch("gpu", (9, 0)))
SETTINGS = ["adapter.kind=lora", "adapter.rank=2", "prior.weight=0", "train.batch_size=8"]


@pytest.mark.parametrize("spec", [PartitionSpec(), PartitionSpec("x"), PartitionSpec(None, "x")])
def test_arrays_go_to_the_host_and_back_split_as_they_are(spec):
    sharding = NamedSharding(Mesh(np.asarray(jax.devices()[:2]), ("x",)), spec)
    before = jax.device_put(np.arange(24, dtype=np.float32).reshape(4, 6), sharding)
    away = on_host({"a": before})["a"]
    back = on_devices({"a": away})["a"]
    assert [one.sharding.memory_kind for one in (away, back)] == ["pinned_host", "device"]
    assert back.sharding == before.sharding
    assert away.sharding.spec == spec
    for one in (away, back):
        np.testing.assert_array_equal(one, before)
    assert on_devices(before) is before


def setup_of(tmp_path, *settings):
    config = tiny_config(tmp_path, *SETTINGS, *settings)
    pipe = describe_pretrained(MODEL, target=Target.here())
    return train_setup.build_train_setup(config, pipe, train_setup.mapper_of(config, Target.here()))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([], {"vae", "text_encoder"}),
        (["text_encoder.start=3", "text_encoder.stop=-1"], {"vae"}),
        (["adapter.kind=full", "adapter.rank=16"], {"vae", "text_encoder"}),
    ],
)
def test_they_are_those_that_no_step_takes(tmp_path, monkeypatch, settings, expected):
    setup = setup_of(tmp_path, *settings)
    assert setup.off_devices == (), "a CPU's memory is the host's"
    everything = state_bytes(setup, optimizer="adamw").get("networks at rest", 0)
    monkeypatch.setattr(Target, "arch", GPU)
    assert set(setup.off_devices) == expected
    away = nbytes([setup.frozen[name] for name in expected])
    assert state_bytes(setup, optimizer="adamw").get("networks at rest", 0) == everything - away
    if not settings:
        assert not any(bytes_per_device(setup.idle(active)) for active in setup.steps)


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_a_run_whose_networks_rest_on_the_host_is_the_same_run(tmp_path, monkeypatch):
    kept = []

    def set_up(*arguments):
        training, trainable = run_set_up(*arguments)
        kept.append(training.frozen)
        return training, trainable

    run_set_up = run.set_up
    monkeypatch.setattr(run, "set_up", set_up)
    folders = []
    for name in ("here", "away"):
        places = [f"run_dir={tmp_path / name}", "samples.every=3", "train.steps=3", "checkpoint.every=3"]
        folders.append(dbx.train(tiny_config(tmp_path, *SETTINGS, *places)).folder)
        monkeypatch.setattr(TrainSetup, "off_devices", property(lambda setup: ("vae", "text_encoder")))
    here, away = ({leaf.sharding.memory_kind for leaf in jax.tree.leaves(frozen["vae"])} for frozen in kept)
    assert (here, away) == ({"device"}, {"pinned_host"})
    assert_same(*(weights(folder, 3) for folder in folders))
    pictures = [sorted(path.read_bytes() for path in (folder / "samples").rglob("*.png")) for folder in folders]
    assert pictures[0]
    assert pictures[0] == pictures[1]
