# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is never trained may be kept in the dtype that is computed in: nothing that is computed changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dreambooth_jax as dbx
from dreambooth_jax import trees
from dreambooth_jax.adapters import full, lora, textual_inversion
from dreambooth_jax.adapters.ranks import Ranks
from dreambooth_jax.adapters.targets import choose_layers
from dreambooth_jax.target import Target
from dreambooth_jax.train_setup.frozen import frozen_dtype, narrowed
from dreambooth_jax.trainer import run
from tests.runs import MODEL, tiny_config, weights

pytestmark = pytest.mark.filterwarnings("ignore:.*:ResourceWarning")
LORA = lora(choose_layers(unet=["full"]), ranks=Ranks(2))


@pytest.fixture(scope="module")
def pipe():
    return dbx.load_pretrained(MODEL, dtype="bfloat16", target=Target.of(jax.devices()[:1]))


def rounded(params, names=None):
    shapes = narrowed(trees.shapes(params), names or set(trees.flatten(params)), jnp.bfloat16)
    return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), params, shapes)


@pytest.mark.slow
def test_networks_that_compute_in_bfloat16_do_not_see_it(pipe):
    """Bit for bit, with every operation by itself."""
    r = np.random.default_rng(0)
    less = rounded(pipe.params)
    assert trees.nbytes(less) < 0.52 * trees.nbytes(pipe.params)
    latents = jnp.asarray(r.normal(size=(1, 8, 8, 4)), jnp.float32)
    ids = jnp.asarray(r.integers(0, 500, (1, 77)))
    states = pipe.text_encoder.apply({"params": pipe.params["text_encoder"]}, ids)
    calls = {
        "text_encoder": lambda params: pipe.text_encoder.apply({"params": params}, ids),
        "unet": lambda params: pipe.unet.apply({"params": params}, latents, jnp.asarray([500]), states),
        "vae": lambda params: pipe.vae.apply({"params": params}, latents, method="decode"),
    }
    for name, call in calls.items():
        np.testing.assert_array_equal(call(less[name]), call(pipe.params[name]), err_msg=name)


def test_only_kernels_and_embeddings_of_networks_are_rounded():
    leaves = {
        "unet/conv/kernel": jnp.ones((3, 3, 4, 4)),
        "unet/conv/bias": jnp.ones(4),
        "unet/norm/scale": jnp.ones(4),
        "text_encoder/table/embedding": jnp.ones((5, 4)),
        "unet/half/kernel": jnp.ones((4, 4), jnp.float16),
    }
    own = {"unet/adapter/conv/kernel": jnp.ones((4, 4)), "unet/adapter/conv/seed": jnp.ones((), jnp.uint32)}
    found = trees.flatten(narrowed(trees.shapes(trees.unflatten(leaves | own)), set(leaves), jnp.bfloat16))
    assert {name: str(leaf.dtype) for name, leaf in found.items() if leaf.dtype != (leaves | own)[name].dtype} == {
        "unet/conv/kernel": "bfloat16",
        "text_encoder/table/embedding": "bfloat16",
    }


def test_by_itself_it_is_so_where_it_is_exact():
    """Where kernels are composed, a small change would be rounded away with them."""
    words = textual_inversion.textual_inversion({"sks": 1}, {"text_encoder": [(1,)]})
    assert frozen_dtype("auto", LORA, computing=jnp.bfloat16) == jnp.bfloat16
    assert frozen_dtype("auto", LORA, computing=jnp.float32) == jnp.float32
    for adapter in (full("unet/.*"), words, LORA._replace(beside=None)):
        assert frozen_dtype("auto", adapter, computing=jnp.bfloat16) == jnp.float32
    assert frozen_dtype("bfloat16", full("unet/.*"), computing=jnp.float32) == "bfloat16"


@pytest.mark.slow
def test_a_hundred_steps_change_no_frozen_bit_and_what_is_written_has_all_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(Target, "here", classmethod(lambda _: Target.of(jax.devices()[:1])))
    kept = []

    def set_up(*arguments):
        training, trainable = run_set_up(*arguments)
        kept.append((training.frozen, jax.tree.map(np.array, training.frozen)))
        return training, trainable

    run_set_up = run.set_up
    monkeypatch.setattr(run, "set_up", set_up)
    settings = ["train.steps=100", "train.dtype=bfloat16", "checkpoint.every=100", "train.batch_size=1"]
    settings += ["adapter.kind=lora", "adapter.rank=2", "prior.weight=0", "optimizer.learning_rate=1e-3"]
    settings += ["export.format=safetensors"]
    config = tiny_config(tmp_path, f"run_dir={tmp_path / 'run'}", *settings)
    dbx.train(config)
    ((frozen, before),) = kept
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), b), frozen, before)
    assert frozen["unet"]["conv_in"]["kernel"].dtype == jnp.bfloat16
    original = trees.flatten(dbx.load_pretrained(MODEL).params)
    written = trees.flatten(dbx.runs.open_model(str(tmp_path / "run")).params)
    adapted = {name.rpartition("/")[0] + "/kernel" for name in weights(tmp_path / "run", 100)}
    for name, leaf in original.items():
        if name not in adapted:
            np.testing.assert_array_equal(written[name], leaf, err_msg=name)
        else:
            change = np.abs(np.asarray(written[name]) - np.asarray(leaf)).max()
            assert 0 < change < 0.5, name
    exported = trees.flatten(dbx.load_pretrained(tmp_path / "run" / "model").params)
    for name, leaf in written.items():
        np.testing.assert_allclose(exported[name], leaf, rtol=1e-6, atol=1e-7, err_msg=name)
