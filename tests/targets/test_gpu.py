# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Programs of an Ampere and a Hopper card, as XLA's compiler makes them, read."""

import pytest

from tests.targets.model import kept_by_the_backward_pass

pytestmark = pytest.mark.slow
STEP = {"pmap": "train.parallel=pmap", "fsdp": "train.parallel=fsdp"}
BOTH, ODD = "text_encoder.stop=-1", "data.resolution=520"
UNET_SELF, UNET_CROSS, TEXT = 8, 8, 2
"""Attentions; of the UNet's, those at the lowest of three levels (two of seven transformers) have heads of 160."""


@pytest.fixture(scope="module")
def ampere(compiled):
    return compiled("a100-40:2", {"step pmap": [STEP["pmap"]], "step fsdp both odd": [STEP["fsdp"], BOTH, ODD]})


@pytest.fixture(scope="module")
def hopper(compiled):
    return compiled(
        "h100:2",
        {
            "step fsdp": [STEP["fsdp"]],
            "step pmap both odd": [STEP["pmap"], BOTH, ODD],
            "sampler odd": [ODD],
            "encoder odd": [ODD],
            "sampler 768x512": [],
        },
    )


@pytest.fixture(scope="module")
def alone(compiled):
    jobs = {f"step {batch}": [f"train.batch_size={batch}"] for batch in (2, 4)}
    return compiled("h100", jobs | {"step 768x512": []})


@pytest.fixture(scope="module")
def old(compiled):
    """Without cuDNN's kernel: before Ampere, or in float32."""
    return compiled("a100-40", {"step float32 odd": ["train.dtype=float32", ODD, "prior.weight=0"]})


@pytest.mark.parametrize(
    ("machine", "job"),
    [
        ("ampere", "step pmap"),
        ("ampere", "step fsdp both odd"),
        ("hopper", "step fsdp"),
        ("hopper", "step pmap both odd"),
    ],
)
class TestSteps:
    @pytest.fixture
    def step(self, machine, job, request):
        return request.getfixturevalue(machine)[job]

    def test_cudnn_computes_attention_and_its_gradients(self, step, job):
        forward = step["kernels"]["__cudnn$fmhaSoftmax"]
        transformers = 3 + 1 + 6 - 3  # those with heads of 40 and 80
        assert forward == 2 * transformers - 2 + (TEXT if "both" in job else 0)
        assert step["kernels"]["__cudnn$fmhaSoftmaxBackward"] == forward

    def test_no_array_of_all_logits_exists(self, step):
        tokens = (4096, 4225, 4226)
        for array in step["largest"]:
            assert sum(size in tokens for size in array["shape"]) < 2, array

    def test_the_old_state_becomes_the_new(self, step):
        usage = step["usage"]
        assert usage["results"] < 20_000, "metrics alone have memory of their own"
        assert usage["arguments"] == pytest.approx(step["state"], rel=0.01)

    def test_gradients_are_summed_in_float32_and_kernels_gathered_in_bfloat16(self, step, job):
        found = {(one["kind"], one["dtype"]): one["bytes"] for one in step["collectives"]}
        parameters = step["state"] * (2 if "fsdp" in job else 1) / 3
        if "pmap" in job:
            assert found.keys() == {("all-reduce", "f32")}
            assert found["all-reduce", "f32"] == pytest.approx(parameters, rel=0.01)
        else:
            assert found["reduce-scatter", "f32"] == pytest.approx(parameters, rel=0.01)
            assert found["all-gather", "bf16"] == pytest.approx(parameters / 2, rel=0.01)
            assert sum(bytes for (kind, _), bytes in found.items() if kind == "all-reduce") < 0.01 * parameters


def test_each_example_takes_what_the_backward_pass_keeps(alone):
    """In bfloat16, and no more: see :func:`kept_by_the_backward_pass`."""
    more = alone["step 4"]["usage"]["temporaries"] - alone["step 2"]["usage"]["temporaries"]
    assert more / 4 == pytest.approx(2 * kept_by_the_backward_pass(64), rel=0.1)


def test_pictures_need_not_be_square(alone):
    step = alone["step 768x512"]
    assert step["kernels"]["__cudnn$fmhaSoftmaxBackward"] == 12
    for array in step["largest"]:
        assert array["shape"].count(96 * 64) < 2, array


def test_pictures_are_drawn_and_encoded_at_odd_sizes(hopper):
    for job in ("sampler odd", "sampler 768x512"):
        assert hopper[job]["kernels"]["__cudnn$fmhaSoftmax"] >= 2 * 5
    assert hopper["encoder odd"]["usage"]["temporaries"] < 2**30


def test_without_the_kernel_queries_go_block_by_block(old):
    assert not [name for name in old["step float32 odd"]["kernels"] if "fmha" in name]
    for array in old["step float32 odd"]["largest"]:
        assert array["bytes"] < 2 * 2**28, array
