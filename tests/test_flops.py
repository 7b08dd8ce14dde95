# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import jax
import jax.numpy as jnp
import pytest

from dreambooth_jax.flops import flops
from dreambooth_jax.models import UNet2DConditionModel, UNetConfig


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_a_product_is_two_operations_for_each_multiplication():
    a, b = shape(5, 3, 7), shape(5, 7, 2)
    assert flops(lambda a, b: a @ b, a, b) == 2 * 5 * 3 * 7 * 2


def test_a_loop_counts_every_turn_and_a_choice_the_dearer_way():
    a, b = shape(3, 4), shape(4, 4)

    def looped(a, b):
        return jax.lax.scan(lambda carry, _: (carry @ b, None), a, None, length=5)[0]

    assert flops(looped, a, b) == 5 * flops(jnp.matmul, a, b)
    assert flops(jax.grad(lambda a, b: looped(a, b).sum(), argnums=(0, 1)), a, b) == 15 * flops(jnp.matmul, a, b)
    chosen = flops(lambda a, b: jax.lax.cond(a[0, 0] > 0, lambda: a @ b @ b, lambda: a @ b), a, b)
    assert chosen == 2 * flops(jnp.matmul, a, b)


@pytest.mark.parametrize("stride", [1, 2])
def test_both_gradients_of_a_convolution_cost_what_it_costs(stride):
    def convolution(x, kernel):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=dimensions)

    x, kernel = shape(2, 8, 8, 5), shape(3, 3, 5, 6)
    forward = flops(convolution, x, kernel)
    assert forward == 2 * 2 * (8 // stride) ** 2 * 6 * 9 * 5
    y = jax.eval_shape(convolution, x, kernel)
    for argument in (0, 1):

        def gradient(x, kernel, dy, argument=argument):
            return jax.vjp(convolution, x, kernel)[1](dy)[argument]

        # the other gradient is traced, too, and takes no part in the result
        assert flops(gradient, x, kernel, y) == 3 * forward


@pytest.mark.slow
def test_of_a_network_it_is_near_the_compilers_count():
    """With one head the attention's loop has one turn, which is what XLA counts of a loop."""
    config = UNetConfig(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=1,
    )
    arguments = shape(2, 16, 16, 4), jax.ShapeDtypeStruct((2,), jnp.int32), shape(2, 77, 32)

    def loss(params, remat):
        return UNet2DConditionModel(config, remat=remat).apply(params, *zeros).mean()

    zeros = [jnp.zeros(a.shape, a.dtype) for a in arguments]
    params = jax.eval_shape(UNet2DConditionModel(config).init, jax.random.key(0), *arguments)
    forward = flops(lambda p: loss(p, "nothing"), params)
    compiled = jax.jit(lambda p: loss(p, "nothing")).lower(params).compile()
    assert forward == pytest.approx(compiled.cost_analysis()["flops"], rel=0.1)
    step = {
        remat: flops(jax.grad(lambda p, r=remat: loss(p, r)), params) for remat in ("nothing", "attention", "blocks")
    }
    assert 2.5 * forward < step["nothing"] < step["attention"] < step["blocks"] < step["nothing"] + forward
