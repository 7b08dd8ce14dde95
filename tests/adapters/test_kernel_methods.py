# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What holds of every way to change a kernel, whatever the kernel's shape."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreambooth_jax import rng
from dreambooth_jax.adapters import difference, ia3, lidb, loha, lokr, oft, rank_relaxed, svdiff
from dreambooth_jax.adapters.dora import DORA
from dreambooth_jax.adapters.lora import start as lora_start
from dreambooth_jax.adapters.low_rank import LORA, first_factors
from dreambooth_jax.adapters.ranks import Ranks
from dreambooth_jax.adapters.tensors import as_matrix
from dreambooth_jax.weights.adapters.methods import ALL_TENSORS, method_of


def relaxed_start(key, kernel, *, begun=True):
    """Low rank beside a LiDB that is somewhere already, or still changes nothing."""
    fixed, lidb_trained = lidb.start(key, kernel, seed=5, down=6, up=5)
    moved_on = {**lidb_trained, "lidb_up": lidb_trained["lidb_up"] + 0.3} if begun else lidb_trained
    return {**fixed, **moved_on}, first_factors(key, kernel.shape, 2, jnp.float32)


METHODS = {
    "diff": (difference.DIFFERENCE, lambda key, kernel: difference.start(kernel)),
    "ia3, inputs": (ia3.IA3, lambda key, kernel: ia3.start(kernel, on_input=True)),
    "ia3, outputs": (ia3.IA3, lambda key, kernel: ia3.start(kernel, on_input=False)),
    "lidb": (lidb.LIDB, partial(lidb.start, seed=3, rank=2, down=5, up=4)),
    "lora": (LORA, partial(lora_start, ranks=Ranks(2, alpha=3.0))),
    "dora, inputs": (DORA, partial(lora_start, ranks=Ranks(2, alpha=3.0), dora="input")),
    "dora, outputs": (DORA, partial(lora_start, ranks=Ranks(2, alpha=3.0), dora="output")),
    "loha": (loha.LOHA, partial(loha.start, rank=2, alpha=3.0)),
    "lokr": (lokr.LOKR, partial(lokr.start, rank=2, alpha=3.0)),
    "lokr, both": (lokr.LOKR, partial(lokr.start, rank=1, alpha=3.0, factor=3, decompose_both=True)),
    "oft": (oft.OFT, lambda key, kernel: oft.start(kernel, block_size=3)),
    "oft, bounded": (oft.OFT, lambda key, kernel: oft.start(kernel, block_size=3, constraint=1e-2)),
    "rank relaxed": (rank_relaxed.RANK_RELAXED, partial(relaxed_start, begun=False)),
    "svdiff": (svdiff.SVDIFF, lambda key, kernel: svdiff.start(kernel)),
}
sides = st.sampled_from([1, 2, 3, 6, 7, 12])
sizes = st.sampled_from([(), (1, 1), (3, 3), (1, 3)])
shapes = st.builds(lambda size, i, o: (*size, i, o), sizes, sides, sides)
few = settings(max_examples=3, deadline=None, derandomize=True)


def kernel_of(shape, seed=0, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(dtype))


def moved(trained, seed=1):
    r = np.random.default_rng(seed)
    return {name: jnp.asarray(r.normal(size=leaf.shape).astype(leaf.dtype)) for name, leaf in trained.items()}


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(shape=shapes)
def test_shapes_are_enough_and_stay(name, shape):
    method, start = METHODS[name]
    described = jax.ShapeDtypeStruct(shape, jnp.float32)
    tensors = jax.eval_shape(partial(start, rng.root_key(0)), described)
    if tensors is None:
        assert (name.startswith("oft"), shape[-1] in (1, 2, 3, 7)) == (True, True), "blocks of one number"
        return
    changed = jax.eval_shape(method.kernel, described, {**tensors[0], **tensors[1]})
    assert (changed.shape, changed.dtype) == (shape, jnp.float32)
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in tensors[1].values()), "all of it can be trained"
    halved = jax.eval_shape(method.kernel, jax.ShapeDtypeStruct(shape, jnp.bfloat16), {**tensors[0], **tensors[1]})
    assert halved.shape == shape


@pytest.mark.parametrize("name", METHODS)
@few
@given(shape=shapes)
def test_it_starts_with_no_change_and_every_tensor_can_move_it(name, shape):
    method, start = METHODS[name]
    kernel, weights = kernel_of(shape), kernel_of(shape, seed=2)
    if jax.eval_shape(partial(start, rng.root_key(0)), kernel) is None:
        return

    @jax.jit
    def measured(kernel, key):
        fixed, trained = start(key, kernel)
        found = []
        for at in (
            trained,
            jax.tree.map(lambda leaf: jnp.cos(1 + 7 * jnp.arange(leaf.size)).reshape(leaf.shape), trained),
        ):
            changed, pull = jax.vjp(lambda at: method.kernel(kernel, {**fixed, **at}), at)
            found.append((changed, pull(weights)[0]))
        return found

    (unchanged, at_first), (changed, later) = measured(kernel, rng.root_key(0))
    np.testing.assert_array_equal(unchanged, kernel)
    assert any(np.any(gradient != 0) for gradient in at_first.values()), "it can leave where it starts"
    assert all(np.isfinite(gradient).all() for gradient in at_first.values())
    assert not np.array_equal(changed, kernel)
    for tensor, gradient in later.items():
        assert np.isfinite(gradient).all(), tensor
        assert np.any(gradient != 0), tensor


def layer(kernel, x):
    """The layer without its bias; a convolution keeps height and width."""
    if kernel.ndim == 2:
        return x @ kernel
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


@pytest.mark.parametrize("name", [name for name, (method, _) in METHODS.items() if method.beside])
@few
@given(shape=shapes)
def test_beside_the_layer_it_is_the_same(name, shape):
    method, start = METHODS[name]
    with jax.enable_x64(True):
        kernel = kernel_of(shape, dtype=np.float64)
        fixed, trained = jax.jit(start)(rng.root_key(0), kernel)
        trained = {tensor: leaf.astype(jnp.float64) for tensor, leaf in moved(trained).items()}
        x = kernel_of((2, 5, 4, shape[-2]) if len(shape) == 4 else (2, shape[-2]), seed=5, dtype=np.float64)

        @jax.jit
        def composed(trained):
            return layer(method.kernel(kernel, {**fixed, **trained}), x)

        @jax.jit
        def beside(trained):
            made = method.beside(kernel, {**fixed, **trained})
            scaled = x if made.inputs is None else x * made.inputs.reshape(*[1] * (x.ndim - 1), -1)
            y = layer(kernel, scaled)
            if made.down is not None:
                y = y + layer(made.up, layer(made.down, scaled))
            return y if made.outputs is None else y * made.outputs.reshape(*[1] * (y.ndim - 1), -1)

        (a, pull_a), (b, pull_b) = jax.vjp(composed, trained), jax.vjp(beside, trained)
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
        dy = kernel_of(a.shape, seed=6, dtype=np.float64)
        for one, other in zip(jax.tree.leaves(pull_a(dy)), jax.tree.leaves(pull_b(dy)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)


@few
@given(shape=shapes)
def test_oft_keeps_every_angle_and_length(shape):
    """Blocks of outputs are rotated: what two inputs' weights have in common with each other stays."""
    with jax.enable_x64(True):
        kernel = kernel_of(shape, dtype=np.float64)
        tensors = oft.start(kernel, block_size=4)
        if tensors is None:
            return
        blocks = 5 * kernel_of(tensors[1]["oft_blocks"].shape, seed=1, dtype=np.float64)
        before, after = as_matrix(kernel), as_matrix(jax.jit(oft.OFT.kernel)(kernel, {"oft_blocks": blocks}))
        assert np.abs(before - after).max() > 1e-3
        np.testing.assert_allclose(after @ after.T, before @ before.T, rtol=1e-10, atol=1e-10)


def test_the_norm_of_an_ofts_generator_is_bounded():
    """A bound that is not reached changes nothing; beyond it only the direction counts."""
    kernel, blocks = kernel_of((4, 12)), kernel_of((3, 4, 4), seed=1)

    def changed(factor, **more):
        return jax.jit(oft.OFT.kernel)(kernel, {"oft_blocks": blocks * factor, **more})

    np.testing.assert_array_equal(changed(1, alpha=jnp.asarray(1e3)), changed(1))
    np.testing.assert_array_equal(changed(1, alpha=jnp.asarray(0.0)), changed(1))
    bound = jnp.asarray(0.01)
    assert np.abs(changed(1, alpha=bound) - changed(1)).max() > 0.1
    np.testing.assert_allclose(changed(1, alpha=bound), changed(7, alpha=bound), atol=1e-6)


@few
@given(shape=shapes)
def test_svdiff_moves_singular_values_and_nothing_else(shape):
    with jax.enable_x64(True):
        kernel = kernel_of(shape, dtype=np.float64)
        fixed, trained = jax.jit(svdiff.start)(kernel)
        change = jax.jit(svdiff.SVDIFF.kernel)
        values = np.linalg.svd(as_matrix(kernel), compute_uv=False)
        np.testing.assert_allclose(fixed["singular_values"], values, rtol=1e-10)
        shift = 0.1 * jnp.arange(len(values))[::-1]
        changed = change(kernel, {**fixed, "delta": shift})
        np.testing.assert_allclose(np.linalg.svd(as_matrix(changed), compute_uv=False), values + shift, rtol=1e-10)
        # A file has the shifts alone.
        np.testing.assert_allclose(changed, change(kernel, {"delta": shift}), atol=1e-12)
        gone = change(kernel, {**fixed, "delta": trained["delta"] - 1e3})
        np.testing.assert_allclose(gone, 0, atol=1e-12)


def threefry(key, counters):
    """Salmon et al. 2011, Threefry-2x32 with 20 rounds; all arrays are of uint32."""
    rotations = [(13, 15, 26, 6), (17, 29, 16, 24)]
    keys = [key[0], key[1], key[0] ^ key[1] ^ np.uint32(0x1BD11BDA)]
    x, y = counters[0] + keys[0], counters[1] + keys[1]
    for i in range(5):
        for turn in rotations[i % 2]:
            x = x + y
            y = ((y << np.uint32(turn)) | (y >> np.uint32(32 - turn))) ^ x
        x, y = x + keys[(i + 1) % 3], y + keys[(i + 2) % 3] + np.uint32(i + 1)
    return x, y


@pytest.mark.parametrize(("seed", "number", "rows", "columns"), [(0, 0, 7, 7), (4_000_000_000, 1, 30, 5)])
def test_a_basis_can_be_made_again_from_what_is_written(seed, number, rows, columns):
    """In numpy alone: a file of today is read by whoever knows the algorithm."""
    special = pytest.importorskip("scipy.special")
    counter = (np.zeros(1, np.uint32), np.array([number], np.uint32))
    with np.errstate(over="ignore"):
        folded = [one[0] for one in threefry((np.uint32(0), np.uint32(seed)), counter)]
        index = np.arange(rows * columns, dtype=np.uint32)
        high, low = threefry(folded, (np.zeros_like(index), index))
    bits = ((high ^ low) >> np.uint32(9)) | np.uint32(0x3F800000)
    unit = np.maximum((bits.view(np.float32) - 1) * 2 + np.nextafter(np.float32(-1), np.float32(0)), -1 + 2**-24)
    drawn = (np.sqrt(2) * special.erfinv(unit.astype(np.float64))).reshape(rows, columns)
    q, r = np.linalg.qr(drawn)
    found = lidb.basis(jnp.uint32(seed), number, rows, columns)
    np.testing.assert_allclose(found, q * np.sign(np.diag(r)), atol=2e-5)
    np.testing.assert_allclose(found.T @ found, np.eye(columns), atol=1e-5)


@few
@given(shape=shapes)
def test_what_is_rank_relaxed_is_merged_exactly(shape):
    """Into one LoRA of both ranks together, without the LiDB."""
    with jax.enable_x64(True):
        kernel = kernel_of(shape, dtype=np.float64)
        fixed, trained = jax.jit(relaxed_start)(rng.root_key(0), kernel)
        trained = {tensor: leaf.astype(jnp.float64) for tensor, leaf in moved(trained).items()}
        tensors = {**fixed, **trained}
        merged = jax.jit(rank_relaxed.merged)(tensors)
        assert set(merged) == {"lora_down", "lora_up", "alpha"}
        assert merged["alpha"] == merged["lora_down"].shape[-1] <= 3
        changed = jax.jit(rank_relaxed.RANK_RELAXED.kernel)(kernel, tensors)
        np.testing.assert_allclose(jax.jit(LORA.kernel)(kernel, merged), changed, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "rank relaxed"])
def test_what_a_file_holds_is_enough(name):
    method, start = METHODS[name]
    kernel = kernel_of((3, 3, 4, 6))
    fixed, trained = jax.jit(start)(rng.root_key(0), kernel)
    tensors = {**fixed, **moved(trained)}
    saved = {tensor: leaf for tensor, leaf in tensors.items() if tensor in ALL_TENSORS}
    assert method_of(saved) == method.name
    np.testing.assert_allclose(method.kernel(kernel, saved), method.kernel(kernel, tensors), atol=2e-5)


def test_a_lidb_of_a_file_is_that_of_the_run():
    """The bases follow from the seed; another seed has others."""
    kernel = kernel_of((3, 3, 6, 12))
    fixed, trained = jax.jit(partial(lidb.start, seed=11, down=7, up=5))(rng.root_key(0), kernel)
    change = jax.jit(lidb.LIDB.kernel)
    trained = moved(trained)
    assert {name: leaf.shape for name, leaf in trained.items()} == {"lidb_down": (7, 1), "lidb_up": (1, 5)}
    changed = change(kernel, {**fixed, **trained})
    stored = {"lidb_seed": fixed["lidb_seed"], **trained}
    np.testing.assert_allclose(change(kernel, stored), changed, atol=1e-6)
    other = change(kernel, {**stored, "lidb_seed": jnp.uint32(12)})
    assert np.abs(other - changed).max() > 1e-2
    difference = as_matrix(changed - kernel)
    assert np.linalg.matrix_rank(difference, tol=1e-4) == 1
    norm = np.linalg.norm(trained["lidb_down"]) * np.linalg.norm(trained["lidb_up"])
    np.testing.assert_allclose(np.linalg.norm(difference), norm, rtol=1e-4)  # the bases keep lengths
