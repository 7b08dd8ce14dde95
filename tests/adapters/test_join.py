# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What adapters are together, by what each is alone; ``test_laws.py`` holds joins to the laws of all adapters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax import rng, trees
from dreambooth_jax.adapters import full, join, lora, part_for
from dreambooth_jax.adapters.ranks import Ranks
from dreambooth_jax.adapters.targets import choose_layers
from tests.adapters.test_laws import PARAMS
from tests.adapters.toy import TABLE, low_rank, shifted, words

LORA = lora(choose_layers(unet=["full"], text_encoder=["full"]), ranks=Ranks(2))
WORDS = words()
ORDERS = {"words last": (LORA, WORDS), "words first": (WORDS, LORA)}


def moved(trainable):
    return jax.tree.map(lambda x: x * 2 + 1, trainable)


def equal(a, b):
    assert trees.flatten(a).keys() == trees.flatten(b).keys()
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(params=ORDERS)
def order(request):
    return ORDERS[request.param]


def test_each_does_what_it_does_alone(order):
    """They change other leaves, so that either order is the one and then the other."""
    joint = join(*order)
    frozen, trainable = joint.init(rng.root_key(0), PARAMS)
    assert set(trainable) == {"unet", "text_encoder", "tokens"}
    found = trees.flatten(joint.compose(frozen, moved(trainable)))
    for adapter, changed in ((LORA, "kernel"), (WORDS, "embedding")):
        alone_frozen, alone = adapter.init(rng.root_key(0), PARAMS)
        equal({group: trainable[group] for group in alone}, alone)
        for name, leaf in trees.flatten(adapter.compose(alone_frozen, moved(alone))).items():
            if name.endswith(changed):
                np.testing.assert_array_equal(found[name], leaf, err_msg=name)
    assert len(found[TABLE]) == len(trees.flatten(PARAMS)[TABLE]) + 2


def test_at_first_it_is_the_model_with_new_words(order):
    joint = join(*order)
    found = trees.flatten(joint.compose(*joint.init(rng.root_key(0), PARAMS)))
    for name, leaf in trees.flatten(PARAMS).items():
        np.testing.assert_array_equal(found[name][: len(leaf)], leaf, err_msg=name)
    assert found.keys() == trees.flatten(PARAMS).keys()


def test_a_network_composes_alone(order):
    joint = join(*order)
    frozen, trainable = joint.init(rng.root_key(0), PARAMS)
    whole = joint.compose(frozen, moved(trainable))
    for name in PARAMS:
        equal(joint.compose(*part_for(joint, [name], frozen, moved(trainable)))[name], whole[name])


def test_groups_change_the_networks_that_they_change_alone(order):
    joint = join(*order)
    assert joint.networks("unet") == ("unet",)
    assert joint.networks("text_encoder") == joint.networks("tokens") == ("text_encoder",)


def test_all_extend_the_pipeline():
    joint = join(words("red"), words("blue"), words("green"))
    assert joint.extend([]) == ["red", "blue", "green"]


def test_each_group_is_brought_back_by_its_own():
    held = words("red")._replace(project=lambda group, before, after: before)
    joint = join(held, words("blue"), LORA)
    before, after = {"rows": np.zeros(2)}, {"rows": np.ones(2)}
    assert joint.project("red", before, after) is before
    assert joint.project("blue", before, after) is joint.project("unet", before, after) is after


def test_joining_is_associative_as_far_as_values_go():
    """What each keeps fixed has the same name in all of them, and is not mixed up."""
    three = join(words("red", count=1), words("blue"), LORA)
    nested = join(words("red", count=1), join(words("blue"), LORA))
    results = []
    for joint in (three, nested):
        frozen, trainable = joint.init(rng.root_key(0), PARAMS)
        results.append(joint.compose(frozen, moved(trainable)))
    equal(*results)
    assert len(trees.flatten(results[0])[TABLE]) == len(trees.flatten(PARAMS)[TABLE]) + 3


def test_later_adapters_see_what_earlier_ones_made():
    """Words that are added to an embedding that another adapter trains."""
    joint = join(shifted(), WORDS)
    frozen, trainable = joint.init(rng.root_key(0), PARAMS)
    assert TABLE not in trees.flatten(frozen)
    trainable["shifts"]["leaf"] = trainable["shifts"]["leaf"] + 5
    embedding = trees.flatten(joint.compose(frozen, trainable))[TABLE]
    np.testing.assert_array_equal(embedding[:5], np.full((5, 8), 8.0))
    np.testing.assert_array_equal(embedding[5:], np.full((2, 8), 3.0))


def test_gradients_are_each_ones_own(order):
    joint = join(*order)
    frozen, trainable = joint.init(rng.root_key(0), PARAMS)
    trainable = moved(trainable)

    def loss(adapter, frozen):
        def of(trained):
            leaves = trees.flatten(adapter.compose(frozen, trained))
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in leaves.values())

        return of

    together = jax.grad(loss(joint, frozen))(trainable)
    for adapter in order:
        alone_frozen, alone = adapter.init(rng.root_key(0), PARAMS)
        alone = jax.grad(loss(adapter, alone_frozen))({group: trainable[group] for group in alone})
        for group in alone:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), together[group], alone[group])


def test_what_cannot_be_told_apart_is_refused():
    with pytest.raises(ValueError, match="groups of their own"):
        join(LORA, full("unet/.*"))
    with pytest.raises(ValueError, match="groups of their own"):
        join(words("red"), words("red"))
    with pytest.raises(ValueError, match="which it did not say"):
        join(low_rank("words")._replace(groups=("letters",)), WORDS).init(rng.root_key(0), PARAMS)
    with pytest.raises(ValueError, match="join all at once"):
        join(join(WORDS, LORA), words("red")).init(rng.root_key(0), PARAMS)
