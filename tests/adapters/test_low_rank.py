# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a kernel becomes, by convolutions that are run one after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax import rng, trees
from dreambooth_jax.adapters import lora
from dreambooth_jax.adapters.low_rank import LORA
from dreambooth_jax.adapters.ranks import Ranks
from dreambooth_jax.adapters.targets import choose_layers


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def convolved(x, kernel, strides=1):
    pad = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x, kernel, (strides,) * 2, [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def test_a_dense_layer_gets_the_product():
    x, kernel, down, up = draw(0, 4, 5), draw(1, 5, 6), draw(2, 5, 3), draw(3, 3, 6)
    changed = LORA.kernel(kernel, {"lora_down": down, "lora_up": up, "alpha": jnp.asarray(1.5)})
    np.testing.assert_allclose(x @ changed, x @ kernel + (x @ down @ up) / 2, rtol=1e-12)
    unscaled = LORA.kernel(kernel, {"lora_down": down, "lora_up": up})
    np.testing.assert_allclose(x @ unscaled, x @ kernel + x @ down @ up, rtol=1e-12)


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("size", [1, 3])
def test_a_convolution_is_followed_by_one_of_size_one(size, strides):
    x, kernel = draw(0, 2, 8, 8, 4), draw(1, size, size, 4, 6)
    down, up = draw(2, size, size, 4, 3), draw(3, 1, 1, 3, 6)
    changed = LORA.kernel(kernel, {"lora_down": down, "lora_up": up, "alpha": jnp.asarray(6.0)})
    expected = convolved(x, kernel, strides) + 2 * convolved(convolved(x, down, strides), up)
    np.testing.assert_allclose(convolved(x, changed, strides), expected, rtol=1e-10, atol=1e-12)


def test_a_convolution_may_stand_in_the_middle():
    x, kernel = draw(0, 2, 8, 8, 4), draw(1, 3, 3, 4, 6)
    down, middle, up = draw(2, 1, 1, 4, 3), draw(3, 3, 3, 3, 3), draw(4, 1, 1, 3, 6)
    changed = LORA.kernel(kernel, {"lora_down": down, "lora_mid": middle, "lora_up": up})
    expected = convolved(x, kernel) + convolved(convolved(convolved(x, down), middle), up)
    np.testing.assert_allclose(convolved(x, changed), expected, rtol=1e-10, atol=1e-12)


def test_matrices_of_a_file_fit_a_convolution_of_size_one():
    """Some tools write those of proj_in as a dense layer's."""
    kernel, down, up = draw(1, 1, 1, 4, 6), draw(2, 4, 3), draw(3, 3, 6)
    changed = LORA.kernel(kernel, {"lora_down": down, "lora_up": up})
    np.testing.assert_allclose(changed[0, 0], kernel[0, 0] + down @ up, rtol=1e-12)


PARAMS = {
    "unet": {
        "attentions_0": {"to_q": {"kernel": np.ones((8, 6), np.float32)}},
        "attentions_1": {"proj_in": {"kernel": np.ones((1, 1, 8, 6), np.float32)}},
        "resnets_0": {"conv1": {"kernel": np.ones((3, 3, 8, 6), np.float32)}},
    }
}


def started(**options):
    adapter = lora(choose_layers(unet=["full"]), ranks=Ranks(**options))
    frozen, trainable = adapter.init(rng.root_key(0), PARAMS)
    return adapter, frozen, trees.flatten(frozen["unet"]["adapter"]), trees.flatten(trainable["unet"])


@pytest.mark.parametrize(
    ("options", "small", "spread"),
    [
        ({"rank": 4}, (4, 4), (4, 4)),
        ({"rank": 4, "alpha": 1.0}, (4, 1), (4, 1)),
        ({"rank": 4, "alpha": 1.0, "conv_rank": 2}, (4, 1), (2, 0.5)),
        ({"rank": 4, "alpha": 1.0, "conv_rank": 2, "conv_alpha": 3.0}, (4, 1), (2, 3)),
        ({"rank": 4, "alpha": 1.0, "conv_rank": 9, "rank_stabilized": True}, (4, 2), (9, 2.25 * 3)),
    ],
)
def test_ranks_and_alphas(options, small, spread):
    """Rank-stabilised: alpha / r, of the number that is kept, is alpha / √r."""
    _, _, fixed, trained = started(**options)
    for path, (rank, alpha) in {
        "attentions_0/to_q": small,
        "attentions_1/proj_in": small,
        "resnets_0/conv1": spread,
    }.items():
        assert trained[f"{path}/lora_down"].shape[-1] == trained[f"{path}/lora_up"].shape[-2] == rank
        assert fixed[f"{path}/alpha"] == alpha


def test_it_starts_like_pytorchs_layers_do():
    """kaiming_uniform_(a=√5) is U(-1 / √fan_in, 1 / √fan_in)."""
    _, _, _, trained = started(rank=500)
    for name, leaf in trained.items():
        if name.endswith("lora_up"):
            assert not np.any(leaf)
        else:
            bound = 1 / np.sqrt(np.prod(leaf.shape[:-1]))
            assert 0.99 * bound < np.abs(leaf).max() <= bound
            assert np.std(leaf) == pytest.approx(bound / np.sqrt(3), rel=0.03)
    assert not np.array_equal(trained["attentions_0/to_q/lora_down"], trained["attentions_1/proj_in/lora_down"][0, 0])


def test_numbers_that_are_trained_are_at_least_float32():
    params = {"unet": {"to_q": {"kernel": jnp.ones((4, 6), jnp.bfloat16)}}}
    adapter = lora(choose_layers(unet=["full"]), ranks=Ranks(2))
    frozen, trainable = adapter.init(rng.root_key(0), params)
    assert {leaf.dtype for leaf in trees.flatten(trainable).values()} == {np.dtype("float32")}
    assert adapter.compose(frozen, trainable)["unet"]["to_q"]["kernel"].dtype == jnp.bfloat16


def test_inputs_drop_out_beside_a_layer_alone():
    """What is composed, to draw with and to write, has all of them."""
    layers, ranks = choose_layers(unet=["full"]), Ranks(2)
    plain, dropping = lora(layers, ranks=ranks), lora(layers, ranks=ranks, dropout=0.25)
    frozen, trainable = dropping.init(rng.root_key(0), PARAMS)
    assert all(float(one.dropout) == 0.25 for one in dropping.beside(frozen, trainable)[1]["unet"].values())
    assert all(one.dropout is None for one in plain.beside(frozen, trainable)[1]["unet"].values())
    jax.tree.map(np.testing.assert_array_equal, dropping.compose(frozen, trainable), plain.compose(frozen, trainable))
