# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Pictures drawn by layers that gather their parameters are those of whole ones, and nothing large lies whole."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from dreambooth_jax import trees
from dreambooth_jax.memory import bytes_per_device
from dreambooth_jax.pipeline import load_pretrained
from dreambooth_jax.target import Target
from dreambooth_jax.training.parallel import drawing, make_mapper
from dreambooth_jax.training.parallel.sharding import for_writing
from tests.runs import MODEL

RUN = {"steps": 2, "height": 16, "width": 16}


@pytest.fixture(scope="module")
def sharded():
    """A model that lies split over devices of 4 MB, as training has it."""
    target = Target.of(jax.devices(), memory=4_000_000)
    mapper = make_mapper("fsdp", target)
    return load_pretrained(MODEL, target=target, place=mapper.load)


@pytest.fixture(scope="module")
def split(sharded):
    return dataclasses.replace(sharded, params=drawing.for_drawing(sharded.params, sharded.target))


def test_what_does_not_fit_stays_in_parts(sharded, split):
    whole = trees.nbytes(sharded.params)
    assert whole > 2_000_000
    assert bytes_per_device(split.params) < whole / 4, "small leaves stay whole, and this model has many"
    roomy = dataclasses.replace(sharded.target, memory=2 * whole)
    assert bytes_per_device(drawing.for_drawing(sharded.params, roomy)) == whole
    assert not drawing.stays_in_parts(load_pretrained(MODEL).params, sharded.target), "it is whole already"


def test_pictures_are_those_of_whole_parameters(sharded, split):
    """Bit for bit: texts, latents of pictures, and a guided run on all devices."""
    both = split, load_pretrained(MODEL, target=sharded.target)
    np.testing.assert_array_equal(*(pipe.encode_prompts(pipe.params, ["a dog"]) for pipe in both))
    pictures = np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
    for moments in zip(*(pipe.encode_images(pipe.params, pictures) for pipe in both), strict=True):
        np.testing.assert_array_equal(*moments)
    np.testing.assert_array_equal(*(pipe(["a dog", "a cat"], output="float32", **RUN) for pipe in both))


def test_every_part_is_gathered_where_a_layer_reads_it(split):
    """And once a program: what is planned is lowered of shapes alone, and has them, too."""
    in_parts = {name for name, leaf in trees.flatten(split.params).items() if not leaf.sharding.is_fully_replicated}
    unread = {name for name in in_parts if name.startswith(("vae/encoder", "vae/quant_conv"))}
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), split.params
    )
    for params in (split.params, shapes):
        text = dataclasses.replace(split, params=params).lower(8, **RUN).as_text()
        assert len(re.findall(r"stablehlo\.all_gather", text)) == len(in_parts - unread) > 0
    whole = dataclasses.replace(split, params=trees.shapes(split.params)).lower(8, **RUN).as_text()
    assert "stablehlo.all_gather" not in whole


def test_what_is_planned_is_laid_out_as_what_is_drawn(sharded):
    mapper = make_mapper("fsdp", sharded.target)
    for memory in (sharded.target.memory, 10**9):
        target = dataclasses.replace(sharded.target, memory=memory)
        planned = drawing.for_drawing(mapper.shapes(trees.shapes(sharded.params)), target)
        drawn = drawing.for_drawing(sharded.params, target)
        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: a.sharding == b.sharding, planned, drawn)))


def test_what_is_written_needs_no_room_on_a_device(sharded):
    """What lies in parts is put together in the host's memory; what is whole already is not copied."""
    written = trees.flatten(for_writing(sharded.params, sharded.target.mesh))
    read = trees.flatten(load_pretrained(MODEL).params)
    for name, leaf in trees.flatten(sharded.params).items():
        np.testing.assert_array_equal(written[name], read[name])
        assert (written[name] is leaf) == leaf.sharding.is_fully_replicated
        assert isinstance(written[name], np.ndarray) != leaf.sharding.is_fully_replicated
