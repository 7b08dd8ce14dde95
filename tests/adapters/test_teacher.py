# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The untouched network beside the trained one: it is what the model was, whatever is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax import rng, trees
from dreambooth_jax.adapters import TEACHER, full, lora, part_for, with_teacher
from dreambooth_jax.adapters.ranks import Ranks
from dreambooth_jax.adapters.targets import choose_layers


def params():
    r = np.random.default_rng(0)

    def layer(i, o):
        return {"kernel": jnp.asarray(r.normal(size=(i, o)), jnp.float32), "bias": jnp.asarray(r.normal(size=o))}

    return {"unet": {"a": layer(4, 6), "b": layer(6, 3)}, "text_encoder": {"c": layer(5, 4)}, "vae": {"d": layer(2, 2)}}


ADAPTERS = {
    "full": full("unet/.*"),
    "with text encoder": full("unet/.*", "text_encoder/.*"),
    "some layers": full("unet/a/.*"),
    "lora": lora(choose_layers(unet=["full"]), ranks=Ranks(2)),
    "DoRA": lora(choose_layers(unet=["full"]), ranks=Ranks(2), dora="output"),
    "text encoder alone": full("text_encoder/.*"),
}


def assert_same(a, b):
    a, b = trees.flatten(a), trees.flatten(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("name", ADAPTERS)
def test_it_is_the_network_before_training_however_far_training_goes(name):
    adapter = with_teacher(ADAPTERS[name])
    frozen, trainable = adapter.init(rng.root_key(0), params())
    before = adapter.compose(frozen, trainable)
    assert_same(before[TEACHER], params()["unet"])
    moved = jax.tree.map(lambda leaf: leaf + 1, trainable)
    after = adapter.compose(frozen, moved)
    assert_same(after[TEACHER], params()["unet"])
    trained = {network for group in trainable for network in adapter.networks(group)}
    assert trained <= {"unet", "text_encoder"}
    for network in trained:
        assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (after[network], before[network]))))


@pytest.mark.parametrize("name", ADAPTERS)
def test_all_else_is_the_adapters(name):
    plain, adapter = ADAPTERS[name], with_teacher(ADAPTERS[name])
    frozen, trainable = adapter.init(rng.root_key(0), params())
    own, same = plain.init(rng.root_key(0), params())
    assert_same(trainable, same)
    composed = adapter.compose(frozen, trainable)
    del composed[TEACHER]
    assert_same(composed, plain.compose(own, same))
    drawn = adapter.compose(*part_for(adapter, params(), frozen, trainable))
    assert TEACHER not in drawn  # a sampler's model has none
    alone = adapter.compose(*part_for(adapter, ("unet", TEACHER), frozen, trainable))
    assert_same(alone[TEACHER], params()["unet"])


def test_a_low_rank_adapter_keeps_nothing_more_and_full_training_a_copy():
    for name, size in (("lora", 0), ("full", trees.nbytes(params()["unet"])), ("text encoder alone", 0)):
        frozen, _ = with_teacher(ADAPTERS[name]).init(rng.root_key(0), params())
        assert trees.nbytes(frozen[TEACHER]) == size, name


def test_the_copy_outlives_what_is_donated():
    frozen, trainable = with_teacher(full("unet/.*")).init(rng.root_key(0), params())
    jax.tree.map(lambda leaf: leaf.delete(), trainable)
    assert np.isfinite(np.asarray(frozen[TEACHER]["unet"]["a"]["kernel"])).all()


def test_kernels_alone_are_kept_in_the_dtype_that_they_are_used_in():
    frozen, _ = with_teacher(full("unet/.*"), dtype=jnp.bfloat16).init(rng.root_key(0), params())
    kept = frozen[TEACHER]["unet"]["a"]
    assert kept["kernel"].dtype == jnp.bfloat16
    assert kept["bias"].dtype == params()["unet"]["a"]["bias"].dtype
    np.testing.assert_array_equal(kept["kernel"], params()["unet"]["a"]["kernel"].astype(jnp.bfloat16))


def test_it_can_be_traced_without_arrays():
    adapter = with_teacher(full("unet/.*"))
    shapes = jax.eval_shape(adapter.init, rng.root_key(0), trees.shapes(params()))
    composed = jax.eval_shape(adapter.compose, *shapes)
    assert trees.shapes(composed[TEACHER]) == trees.shapes(params()["unet"])
