# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Laws of what becomes of a model with a file of an adapter."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax.adapters.methods import METHODS
from dreambooth_jax.errors import InputError
from dreambooth_jax.trees import flatten, unflatten
from dreambooth_jax.weights.adapters import AdapterFile, Module, applied
from tests.weights.adapters.trees import lora_tensors

SHAPES = {"conv_in": (3, 3, 4, 6), "proj_in": (1, 1, 6, 8), "to_q": (8, 5)}


def model(seed=0):
    r = np.random.default_rng(seed)
    unet = {f"{path}/kernel": r.normal(size=shape).astype(np.float32) for path, shape in SHAPES.items()}
    unet |= {"conv_in/bias": r.normal(size=6).astype(np.float32), "norm/scale": np.ones(6, np.float32)}
    unet["norm/bias"] = np.zeros(6, np.float32)
    return {"unet": unflatten(unet), "vae": {"conv": {"kernel": np.ones((2, 2), np.float32)}}}


def file(layers, **networks):
    return AdapterFile(file=Path("a.safetensors"), networks={"unet": layers, **networks})


def low_rank(seed=0, paths=SHAPES):
    r = np.random.default_rng(seed)
    return {path: Module("lora", lora_tensors(SHAPES[path], rank=3, alpha=2.0, r=r)) for path in paths}


def test_with_weight_one_each_kernel_is_what_its_method_makes_of_it():
    params, layers = model(), low_rank()
    found = applied(params, file(layers))
    for path, module in layers.items():
        kernel, tensors = jax.tree.map(jnp.asarray, (params["unet"][path]["kernel"], module.tensors))
        expected = METHODS["lora"].kernel(kernel, tensors)
        np.testing.assert_array_equal(found["unet"][path]["kernel"], expected)


def test_with_weight_zero_nothing_changes():
    params = model()
    for weight in (0.0, {"unet": 0.0}):
        assert all(a is b for a, b in zip(*map(jax.tree.leaves, (applied(params, file(low_rank()), weight), params))))


@pytest.mark.parametrize("m", [-1.0, 0.5, 1.0, 2.0])
def test_the_change_is_in_proportion_to_the_weight(m):
    params, layers = model(), low_rank()
    layers["norm"] = Module("norm", {"w_norm": np.arange(6.0, dtype=np.float32), "b_norm": np.ones(6, np.float32)})
    layers["conv_in"] = Module("diff", {"diff_b": np.ones(6, np.float32)})
    whole, part = (flatten(applied(params, file(layers), weight)) for weight in (1.0, m))
    moved = 0
    for name, leaf in flatten(params).items():
        np.testing.assert_allclose(part[name] - leaf, m * (whole[name] - leaf), rtol=1e-4, atol=1e-5, err_msg=name)
        moved += bool((whole[name] != leaf).any())
    assert moved == 5


def test_what_is_not_changed_is_the_same_array():
    params = model()
    found = applied(params, file(low_rank(paths=["to_q"])))
    changed = [name for name, leaf in flatten(found).items() if leaf is not flatten(params)[name]]
    assert changed == ["unet/to_q/kernel"]
    assert found["vae"] is params["vae"]


def test_two_that_add_may_come_in_any_order():
    params, one, two = model(), file(low_rank(1)), file(low_rank(2))
    a = applied(applied(params, one, 0.7), two, -0.4)
    b = applied(applied(params, two, -0.4), one, 0.7)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), a, b)


def test_each_network_may_have_its_own_weight():
    params = model()
    params["text_encoder"] = params["unet"]
    found = applied(params, file(low_rank(), text_encoder=low_rank()), {"unet": 0.0, "text_encoder": 1.0})
    assert found["unet"] is params["unet"]
    assert (found["text_encoder"]["to_q"]["kernel"] != params["unet"]["to_q"]["kernel"]).any()


def test_half_precision_stays_and_is_computed_in_single():
    params = model()
    half = jax.tree.map(lambda leaf: leaf.astype(np.float16), params)
    module = low_rank()["to_q"]
    layers = {"to_q": Module("lora", {name: np.asarray(t, np.float16) for name, t in module.tensors.items()})}
    wide = {"to_q": Module("lora", {name: np.asarray(t, np.float32) for name, t in layers["to_q"].tensors.items()})}
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), half)
    found = applied(half, file(layers), 0.5)["unet"]["to_q"]["kernel"]
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, applied(params, file(wide), 0.5)["unet"]["to_q"]["kernel"].astype(np.float16))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"to_k": low_rank()["to_q"]}, "a.safetensors: unet/to_k is no layer of this model, which has to_q/kernel"),
        ({"proj_in": low_rank()["to_q"]}, r"does not fit this model, whose proj_in/kernel is \[1, 1, 6, 8\]"),
        ({"norm": Module("norm", {"w_norm": np.ones(3)})}, r"whose norm/scale is \[6\]"),
        ({"to_q": Module("oft_diag", {"oft_diag": np.ones((2, 2))})}, "changed by oft_diag, which we cannot apply"),
    ],
)
def test_an_adapter_for_another_model_is_one_line(layers, message):
    with pytest.raises(InputError, match=message):
        applied(model(), file(layers))


def test_an_adapter_for_another_network_is_one_line():
    with pytest.raises(InputError, match="changes a text_encoder_2, which this model does not have"):
        applied(model(), file({}, text_encoder_2=low_rank()))
