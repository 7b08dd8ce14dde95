# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""In which dtype networks that are not trained are kept."""

from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from dreambooth_jax.adapters import Adapter
from dreambooth_jax.trees import Tree, map_named


def frozen_dtype(said: str, adapter: Adapter, *, computing: DTypeLike) -> DTypeLike:
    """The dtype of kernels at rest.

    Args:
        said: by the settings. "auto" is the computing dtype if the adapter stands beside the layers, which then round
            kernels to it anyway; where kernels are composed, it is float32, so that no small change is lost.
        adapter: of the run.
        computing: dtype that networks compute in.
    """
    if said != "auto":
        return said
    return computing if adapter.beside else np.float32


def narrowed(frozen: Tree, networks: Collection[str], dtype: DTypeLike) -> Tree:
    """Shapes with all kernels and embeddings of networks in ``dtype``, where that is narrower than their own. Biases
    and scales stay: norms use them in float32 whatever the networks compute in.

    Args:
        frozen: shapes.
        networks: names of leaves that are a network's own, and no adapter's.
        dtype: of the result.
    """

    def narrow(name: str, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        is_large = name in networks and name.rpartition("/")[2] in ("kernel", "embedding")
        if is_large and jnp.dtype(dtype).itemsize < leaf.dtype.itemsize:
            return jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype))
        return leaf

    return map_named(narrow, frozen)
