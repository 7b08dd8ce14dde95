# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Whole runs of every kind of adapter: what is trained, what is kept, and that an interruption changes no bit."""

import jax
import numpy as np
import pytest

import dreambooth_jax as dbx
from dreambooth_jax import rng, trees
from dreambooth_jax.adapters.kernel_kinds import KINDS
from dreambooth_jax.adapters.lidb import start
from dreambooth_jax.adapters.targets import choose_layers
from dreambooth_jax.runs import open_model
from dreambooth_jax.target import Target
from dreambooth_jax.weights.adapters import Module, write_adapter
from tests.runs import MODEL, assert_same, draw_photos, killed_at, tiny_config, weights

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*:ResourceWarning")]

SETTINGS = [
    "prior.weight=0",
    "train.steps=2",
    "train.batch_size=1",
    "checkpoint.every=1",
    "optimizer.learning_rate=1e-2",
]
TENSORS = {
    "loha": {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"},
    "lokr": {"lokr_w1", "lokr_w2", "lokr_w2_a", "lokr_w2_b"},
    "ia3": {"weight"},
    "oft": {"oft_blocks"},
    "svdiff": {"delta"},
    "lidb": {"lidb_down", "lidb_up"},
    "rank_relaxed": {"lora_down", "lora_up"},
    "custom_diffusion": {"diff"},
    "full": {"kernel", "bias", "scale"},
}
MORE = {"loha": ["adapter.rank=2"], "lokr": ["adapter.rank=2"], "full": ["adapter.targets=attn-mlp"]}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    draw_photos(root / "photos")
    return root


@pytest.fixture(scope="module")
def begun(root):
    """The file of a LiDB of some layers."""
    unet = trees.flatten(dbx.load_pretrained(MODEL).params["unet"])
    modules = {}
    for name in choose_layers(unet=["cross-attention-kv"])([f"unet/{one}" for one in unet]):
        path = name.removeprefix("unet/").removesuffix("/kernel")
        fixed, trained = start(rng.root_key(0), unet[f"{path}/kernel"], seed=4_000_000_000)
        tensors = {**trained, "lidb_up": trained["lidb_up"] + 0.05, "lidb_seed": fixed["lidb_seed"]}
        modules[path] = Module("lidb", tensors)
    write_adapter(root / "begun.safetensors", {"unet": modules})
    return root / "begun.safetensors"


def test_every_kind_is_run():
    assert TENSORS.keys() == {*KINDS, "full"}


@pytest.mark.parametrize("kind", TENSORS)
def test_it_trains_and_goes_on_bit_for_bit(kind, root, request, monkeypatch):
    monkeypatch.setattr(Target, "here", classmethod(lambda _: Target.of(jax.devices()[:1])))
    more = [*SETTINGS, f"adapter.kind={kind}", *MORE.get(kind, [])]
    more += [f"adapter.begin={request.getfixturevalue('begun')}"] if kind == "rank_relaxed" else []
    whole, killed = (tiny_config(root, f"run_dir={root / kind}-{name}", *more) for name in ("whole", "killed"))
    dbx.train(whole)
    with monkeypatch.context() as patch:
        patch.setattr("dreambooth_jax.trainer.training.run_phases", killed_at(1))
        dbx.train(killed)
    dbx.train(killed)
    folder = root / f"{kind}-whole"
    trained = weights(folder, 2)
    assert_same(trained, weights(root / f"{kind}-killed", 2))
    assert {name.rpartition("/")[2] for name in trained} <= TENSORS[kind]
    first = weights(folder, 1)
    for name, leaf in trained.items():
        assert (leaf != first[name]).any(), name
    _only_the_layers_of_what_is_trained_change(folder, trained)


def _only_the_layers_of_what_is_trained_change(folder, trained):
    before = trees.flatten(dbx.load_pretrained(MODEL).params)
    layers = {name.rpartition("/")[0] for name in trained}
    for name, leaf in trees.flatten(open_model(str(folder)).params).items():
        differs = bool((np.asarray(leaf) != before[name]).any())
        is_changed = name.rpartition("/")[0] in layers and (name in trained or name.endswith("/kernel"))
        assert differs == is_changed, name
