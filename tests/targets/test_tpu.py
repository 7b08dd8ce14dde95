# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Programs of one v5e chip and of four, as libtpu's compiler makes them, read."""

import pytest

pytestmark = pytest.mark.slow
BOTH, ODD = "text_encoder.stop=-1", "data.resolution=520"


@pytest.fixture(scope="module")
def one(compiled):
    return compiled("v5e:1x1", {"step both odd": [BOTH, ODD], "sampler": [], "encoder": []})


@pytest.fixture(scope="module")
def four(compiled):
    batch = "train.batch_size=2"
    return compiled("v5e:2x2", {f"step {way}": [f"train.parallel={way}", batch] for way in ("fsdp", "pmap")})


def test_large_self_attention_is_a_kernel(one, four):
    for step in (one["step both odd"], four["step fsdp"], four["step pmap"]):
        assert step["kernels"]["tpu_custom_call"] >= 6, "forward and backward of three transformers at the first level"
        for array in step["largest"]:
            assert sum(size in (4096, 4225) for size in array["shape"]) < 2, array
    assert one["sampler"]["kernels"]["tpu_custom_call"] >= 3


def test_the_old_state_becomes_the_new(one, four):
    for step in (one["step both odd"], four["step fsdp"], four["step pmap"]):
        assert step["usage"]["results"] < 20_000


def test_gradients_are_summed_in_float32_and_kernels_gathered_in_bfloat16(four):
    fsdp, pmap = (
        {(one["kind"], one["dtype"]): one["bytes"] for one in four[f"step {way}"]["collectives"]}
        for way in ("fsdp", "pmap")
    )
    parameters = four["step pmap"]["state"] / 3
    assert fsdp["all-gather", "bf16"] == pytest.approx(parameters / 2, rel=0.01)
    summed = sum(bytes for (kind, dtype), bytes in fsdp.items() if kind in ("reduce-scatter", "all-reduce"))
    assert summed == pytest.approx(parameters, rel=0.1), "tiles are filled up where parts do not fit them"
    assert fsdp["reduce-scatter", "f32"] > 0.6 * parameters
    assert sum(bytes for (kind, dtype), bytes in pmap.items() if "f32" in dtype) == pytest.approx(parameters, rel=0.02)
