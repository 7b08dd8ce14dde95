# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreambooth_jax import trees
from dreambooth_jax.errors import InputError

names = st.text("ab_01", min_size=1, max_size=3)
nested = st.recursive(st.integers(), lambda children: st.dictionaries(names, children, min_size=1, max_size=3))
trees_of_ints = st.dictionaries(names, nested, max_size=3)


@given(trees_of_ints)
def test_unflatten_undoes_flatten(tree):
    assert trees.unflatten(trees.flatten(tree)) == tree


@given(trees_of_ints, st.sampled_from(["a.*", ".*0", ".*/.*", "nothing"]))
def test_combine_undoes_partition(tree, pattern):
    inside, outside = trees.partition(tree, trees.matcher([pattern]))
    assert trees.combine(inside, outside) == tree
    assert not trees.flatten(inside).keys() & trees.flatten(outside).keys()


def test_combining_overlapping_trees_is_an_error():
    with pytest.raises(ValueError, match="leaf a/b"):
        trees.combine({"a": {"b": 1}}, {"a": {"b": 2, "c": 3}})


def test_rules_first_match_wins_and_every_leaf_and_rule_counts():
    tree = {"unet": {"bias": 0, "kernel": 0}, "vae": {"bias": 0}}
    rules = [(r".*/bias", "no"), (r"unet/.*", "yes")]
    assert trees.by_name(tree, rules) == {"unet": {"bias": "no", "kernel": "yes"}, "vae": {"bias": "no"}}
    with pytest.raises(ValueError, match="no rule for leaf vae/bias"):
        trees.by_name(tree, [(r"unet/.*", "yes")])
    with pytest.raises(ValueError, match="match no leaf.*clip"):
        trees.by_name(tree, [(r".*", "yes"), (r"clip/.*", "no")])


def test_sizes():
    tree = {"a": jax.ShapeDtypeStruct((2, 3), np.float32), "b": {"c": np.zeros(5, np.float16)}}
    assert trees.count(tree) == 11
    assert trees.nbytes(tree) == 6 * 4 + 5 * 2


def test_numbers_of_scalars_keep_a_digit_that_says_something():
    assert [trees.short(number) for number in (859_520_964, 768, 1_536, 50_000, 0)] == [
        "859.5M",
        "768",
        "1.5k",
        "0.1M",
        "0",
    ]


def test_mismatches_are_three_sorted_lists_in_one_error():
    expected = {"b": (1,), "a": (2,), "same": (3,), "shape": (4, 4)}
    found = {"same": (3,), "shape": (4, 5), "z": (1,), "y": (1,), "buffer": (1,)}
    with pytest.raises(InputError) as error:
        trees.check_shapes(expected=expected, found=found, source="unet", ignore=["buffer"])
    assert "2 missing: a, b; 2 extra: y, z; 1 misshaped: shape is (4, 5), not (4, 4)" in str(error.value)
    trees.check_shapes(expected=expected, found=expected, source="unet")
