# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""With fsdp nothing large is ever whole on a device, but while pictures are drawn."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from dreambooth_jax import trees
from dreambooth_jax.pipeline import load_pretrained
from dreambooth_jax.target import Target
from dreambooth_jax.training.optimizer import adamw
from dreambooth_jax.training.parallel import make_mapper
from dreambooth_jax.training.parallel.sharding import replicate
from dreambooth_jax.training.state import init_state
from tests.runs import MODEL


@pytest.fixture(scope="module")
def mapper():
    return make_mapper("fsdp", Target.of(jax.devices()))


@pytest.fixture(scope="module")
def loaded(mapper):
    return load_pretrained(MODEL, target=mapper.target, place=mapper.load)


def held(tree):
    """Bytes on the device that holds most."""
    on = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            on[shard.device] += shard.data.nbytes
    return max(on.values())


def test_weights_and_moments_are_in_parts_from_the_beginning(mapper, loaded):
    trainable = {"unet": loaded.params["unet"]}
    state = init_state(trainable, {"unet": adamw(optax.constant_schedule(1e-3), group="unet")}, with_ema=True)
    for tree in (loaded.params, state.ema, state.opt_state):
        for leaf in jax.tree.leaves(tree):
            expected = mapper.sharding(leaf)
            # scalars are wherever they are: placing them moves nothing
            assert leaf.ndim == 0 or leaf.sharding.is_equivalent_to(expected, leaf.ndim)
    assert held(mapper.place(state)) < trees.nbytes(state) / 4, "small leaves stay whole, and this model has many"


def test_placing_what_was_loaded_copies_nothing(mapper, loaded):
    kernel = loaded.params["unet"]["conv_in"]["kernel"]
    placed = mapper.place(kernel)
    assert [shard.data.unsafe_buffer_pointer() for shard in placed.addressable_shards] == [
        shard.data.unsafe_buffer_pointer() for shard in kernel.addressable_shards
    ]


def test_everywhere_is_what_the_default_loads(loaded):
    default = load_pretrained(MODEL).params
    whole = replicate(loaded.params, loaded.target.mesh)
    for name, leaf in trees.flatten(whole).items():
        assert len(leaf.addressable_shards) == 8
        assert leaf.is_fully_replicated
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(trees.flatten(default)[name]))


def test_texts_are_encoded_alike_from_parts_and_from_the_whole(loaded):
    prompts = ["a photo of sks dog"]
    whole = dataclasses.replace(loaded, params=replicate(loaded.params, loaded.target.mesh))
    expected, found = (np.asarray(pipe.encode_prompts(pipe.params, prompts)) for pipe in (whole, loaded))
    np.testing.assert_array_equal(found, expected)
