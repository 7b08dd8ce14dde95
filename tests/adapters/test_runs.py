# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Whole runs with an adapter that computes: nothing but the registry knows of it."""

import jax
import numpy as np
import pytest

import dreambooth_jax as dbx
from dreambooth_jax import rng, trees
from dreambooth_jax.adapters import registry
from dreambooth_jax.runs import open_model
from dreambooth_jax.target import Target
from tests.adapters.toy import RANK, low_rank
from tests.runs import MODEL, assert_same, cut_short, draw_photos, tiny_config, traced_plan, weights

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*:ResourceWarning")]

LAYOUTS = [("auto", 1), ("pmap", 2), ("fsdp", 2)]
STRETCH = ["text_encoder.start=1", "text_encoder.stop=3", "text_encoder.learning_rate=1e-2"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    draw_photos(root / "photos")
    return root


@pytest.fixture(params=LAYOUTS)
def trained(request, root, monkeypatch):
    """(folder of a whole run, its config's overrides), on some devices."""
    parallel, n = request.param
    monkeypatch.setattr(Target, "here", classmethod(lambda _: Target.of(jax.devices()[:n])))
    monkeypatch.setattr("dreambooth_jax.training.parallel.sharded.SHARDING_THRESHOLD", 64)
    monkeypatch.setitem(registry.ADAPTERS, "full", lambda *_: low_rank("words", "pictures"))
    settings = ["prior.weight=0", "train.steps=4", "train.ema_decay=0.5", "checkpoint.every=2", *STRETCH]
    settings += [f"train.parallel={parallel}", "samples.every=4", "samples.steps=1", "samples.num_images=1"]
    dbx.train(tiny_config(root, f"run_dir={root / parallel}", *settings))
    return root / parallel, settings


def test_it_trains_resumes_samples_and_exports(trained, root):
    folder, settings = trained
    _only_what_the_adapter_trains_is_kept(folder)
    _the_model_is_what_is_composed(folder)
    _killed_and_resumed_is_bit_identical(folder, root, settings)


def test_the_plan_counts_what_is_trained(root, monkeypatch):
    monkeypatch.setitem(registry.ADAPTERS, "full", lambda *_: low_rank("words", "pictures"))
    overrides = ["prior.weight=0", "train.steps=4", "samples.every=4", "samples.num_images=1", *STRETCH]
    found = traced_plan(tiny_config(root, *overrides))
    params = dbx.load_pretrained(MODEL).params
    _, trainable = low_rank("words", "pictures").init(rng.root_key(0), params)
    assert found.state["parameters"] == trees.nbytes(trainable) < trees.nbytes(params) / 20
    assert found.state["networks at rest"] == trees.nbytes(params)
    for name, tree in trainable.items():
        assert f"{trees.short(trees.count(tree))} {name}" in found.model.split(";")[0]
    (grids,) = [draw for draw in found.draws if draw.purpose == "sample grids"]
    adapted = {name.replace(".", "/") for group in trainable.values() for name in group}
    changed = sum(leaf.nbytes for name, leaf in trees.flatten(params).items() if name in adapted)
    held = sum(found.state[name] for name in ("parameters", "moments (adamw)"))
    assert grids.idle == pytest.approx(held + changed, abs=64), "beside the whole model: the kernels that were adapted"


def _only_what_the_adapter_trains_is_kept(folder):
    before, after = weights(folder, 2), weights(folder, 4)
    assert {name.split("/")[0] for name in after} == {"words", "pictures"}
    assert all(RANK in leaf.shape for leaf in after.values())
    assert any((before[name] != leaf).any() for name, leaf in after.items() if name.startswith("words"))
    assert all((before[name] != leaf).any() for name, leaf in after.items() if name.startswith("pictures"))


def _the_model_is_what_is_composed(folder):
    original = dbx.load_pretrained(MODEL).params
    adapter = low_rank("words", "pictures")
    average = trees.unflatten(weights(folder, 4, ema=True))
    expected = trees.flatten(adapter.compose(original, average))
    opened = open_model(str(folder))
    exported = dbx.load_pretrained(folder / "model").params
    changed = 0
    for name, leaf in expected.items():
        np.testing.assert_allclose(trees.flatten(opened.params)[name], leaf, rtol=1e-6, atol=1e-7, err_msg=name)
        np.testing.assert_allclose(trees.flatten(exported)[name], leaf, rtol=1e-6, atol=1e-7, err_msg=name)
        changed += bool((np.asarray(leaf) != np.asarray(trees.flatten(original)[name])).any())
    assert changed == len(trees.flatten(average)) // 2
    options = {"steps": 2, "height": 16, "width": 16, "output": "float32"}
    pictures = opened.pipe("a photo of sks dog", params=opened.params, **options)
    np.testing.assert_allclose(pictures, opened.pipe("a photo of sks dog", params=exported, **options), atol=1e-5)
    assert np.abs(pictures - opened.pipe("a photo of sks dog", params=original, **options)).max() > 1e-4


def _killed_and_resumed_is_bit_identical(folder, root, settings):
    killed = cut_short(folder, 2, root / f"{folder.name}-killed")
    dbx.train(tiny_config(root, f"run_dir={killed}", *settings))
    for ema in (False, True):
        assert_same(weights(folder, 4, ema=ema), weights(killed, 4, ema=ema))
