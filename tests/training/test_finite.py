# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax.target import Target
from dreambooth_jax.training.finite import check_state_finite
from dreambooth_jax.training.metrics import NonFinite
from dreambooth_jax.training.parallel import make_mapper
from tests.training import toy

LAYOUTS = [("auto", 1), ("pmap", 2), ("fsdp", 2)]


@pytest.fixture(params=LAYOUTS)
def place(request):
    name, n = request.param
    return make_mapper(name, Target.of(jax.devices()[:n])).place


def test_a_finite_state_passes(place):
    check_state_finite(place(toy.setup()[2]), 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["trainable", "ema"])
def test_one_number_is_found_and_its_leaf_named(place, part, value):
    state = toy.setup()[2]
    tree = jax.tree.map(lambda leaf: leaf, getattr(state, part))
    tree["unet"]["b"]["kernel"] = tree["unet"]["b"]["kernel"].at[5, 2].set(value)
    kind = {"trainable": "weight", "ema": "moving average"}[part]
    with pytest.raises(NonFinite, match=rf"the {kind} unet/b/kernel is not finite after step 3 \(1 of \d+ are not\)"):
        check_state_finite(place(state.replace(**{part: tree})), 3)


def test_moments_count_too():
    state = toy.setup()[2]
    spoilt = jax.tree.map(lambda leaf: jnp.full_like(leaf, np.nan) if leaf.ndim == 2 else leaf, state.opt_state)
    with pytest.raises(NonFinite, match=r"the moment text_encoder/.*kernel is not finite"):
        check_state_finite(state.replace(opt_state=spoilt), 3)
