# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A LoRA from a tuned model: whole, it is the tuned model; cut off, it is as near as any can be."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreambooth_jax.adapters.extract import extract, shares_kept, singular
from dreambooth_jax.adapters.low_rank import LORA

SHAPES = {
    "conv_in": (3, 3, 4, 10),
    "attn2/to_k": (12, 7),
    "proj_in": (1, 1, 6, 9),
    "ff": (5, 20),
    "single": (1, 8),
}


def network(seed, dtype=np.float64):
    r = np.random.default_rng(seed)
    tree = {"norm": {"scale": r.normal(size=8).astype(dtype)}, "untouched": {"kernel": np.ones((3, 4), dtype)}}
    for path, shape in SHAPES.items():
        node = tree
        for part in path.split("/"):
            node = node.setdefault(part, {})
        node["kernel"] = r.normal(size=shape).astype(dtype)
    return tree


def kernel(tree, path):
    for part in (*path.split("/"), "kernel"):
        tree = tree[part]
    return tree


def applied(before, found):
    """path -> kernel with what was extracted."""
    with jax.enable_x64(True):
        return {
            path: np.asarray(LORA.kernel(kernel(before, path), jax.tree.map(jnp.asarray, tensors)))
            for path, tensors in found.tensors.items()
        }


def test_at_full_rank_it_is_the_tuned_model():
    before, after = network(0), network(1)
    found = extract(before, after, rank=1000)
    assert set(found.tensors) == set(SHAPES), "what did not change has no tensors"
    for path, changed in applied(before, found).items():
        np.testing.assert_allclose(changed, kernel(after, path), rtol=1e-12, atol=1e-12, err_msg=path)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(rank=st.integers(1, 12), conv_rank=st.sampled_from([None, 0, 1, 5]))
def test_what_is_lost_is_the_tail_of_singular_values(rank, conv_rank):
    """Eckart and Young: and that is the least that any matrix of this rank loses."""
    before, after = network(0), network(1)
    found = extract(before, after, rank=rank, conv_rank=conv_rank)
    changed, kept, whole = applied(before, found), 0.0, 0.0
    for path, shape in SHAPES.items():
        r = conv_rank if path == "conv_in" and conv_rank is not None else rank
        difference = kernel(after, path) - kernel(before, path)
        sigma = np.linalg.svd(difference.reshape(-1, shape[-1]), compute_uv=False)
        lost = np.sum((changed.get(path, kernel(before, path)) - kernel(after, path)) ** 2)
        np.testing.assert_allclose(lost, np.sum(sigma[r:] ** 2), rtol=1e-10, atol=1e-20)
        if path in found.tensors:
            assert found.tensors[path]["lora_down"].shape[-1] == min(r, len(sigma))
        kept, whole = kept + np.sum(sigma[:r] ** 2), whole + np.sum(sigma**2)
    other = np.sum((before["norm"]["scale"] - after["norm"]["scale"]) ** 2)
    np.testing.assert_allclose(shares_kept([found], rank, conv_rank), (kept / whole, kept / (whole + other)))


def test_shares_grow_to_one_and_are_of_all_networks_together():
    networks = [extract(network(0), network(seed), rank=2) for seed in (1, 2)]
    shares = [shares_kept(networks, rank)[0] for rank in (0, 1, 2, 4, 8, 16)]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == pytest.approx(1)
    assert min(shares_kept([one], 3)[0] for one in networks) < shares_kept(networks, 3)[0]
    assert shares_kept([extract(network(0), network(0), rank=2)], 2) == (1, 1), "nothing is lost of nothing"


def test_factors_can_be_clamped():
    """No number is beyond the quantile of all of a layer, as in sd-scripts; what is below it stays."""
    before, after = network(0), network(1)
    free, clamped = (extract(before, after, rank=3, clamp_quantile=q) for q in (None, 0.9))
    for path, tensors in free.tensors.items():
        factors = [tensors["lora_down"], tensors["lora_up"]]
        most = np.quantile(np.concatenate([factor.ravel() for factor in factors]), 0.9)
        for name, factor in zip(("lora_down", "lora_up"), factors, strict=True):
            np.testing.assert_array_equal(clamped.tensors[path][name], np.minimum(np.maximum(factor, -most), most))


@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (9, 9), (1, 5), (5, 1)])
@pytest.mark.parametrize("rank", [0, 3, 100])
def test_single_numbers_are_decomposed_as_exactly_as_by_lapack(shape, rank):
    """Squared in float64, which keeps all that float32 has; also of matrices without full rank."""
    r = np.random.default_rng(0)
    i, o = shape
    product = r.normal(size=(i, rank)) @ r.normal(size=(rank, o)) if rank < 100 else r.normal(size=shape)
    matrix = product.astype(np.float32)
    left, sigma, right = singular(matrix)
    assert {part.dtype for part in (left, sigma, right)} == {np.dtype(np.float32)}
    expected = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    largest = max(expected[0], 1e-30)
    np.testing.assert_allclose(sigma, expected, atol=1e-6 * largest)
    np.testing.assert_allclose(left @ np.diag(sigma) @ right, matrix, atol=2e-6 * largest)
    kept = sigma > 1e-4 * largest
    np.testing.assert_allclose(left.T[kept] @ left[:, kept], np.eye(kept.sum()), atol=1e-5)
    np.testing.assert_allclose(right[kept] @ right[kept].T, np.eye(kept.sum()), atol=1e-5)


def test_halves_are_decomposed_in_float32():
    before, after = network(0, ml_dtypes.bfloat16), network(1, ml_dtypes.bfloat16)
    found = extract(before, after, rank=1000)
    for tensors in found.tensors.values():
        assert {leaf.dtype for leaf in tensors.values()} == {np.dtype(np.float32)}
    for path, changed in applied(jax.tree.map(lambda leaf: leaf.astype(np.float32), before), found).items():
        np.testing.assert_allclose(changed, kernel(after, path).astype(np.float32), atol=1e-5, err_msg=path)
