# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Parameters of which each device has a part, gathered by the layers that read them (arXiv 1910.02054, stage 3).

Flax opens boxes (``flax.core.meta``) where a layer asks for a parameter. So a tree of :class:`Part` stands in the place
of a network's parameters inside a program over devices: its layers gather what they need one after the other, what is
computed again in the backward pass is gathered again for it, and networks know nothing of it.

    y = x · all_gather(W_i)        backward: ∂W_i = psum_scatter(∂W), in the parameter's own dtype
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax.core import meta
from jax.typing import DTypeLike

from dreambooth_jax.trees import Tree

WHOLE = -1
"""The axis of leaves that are not split."""


@partial(jax.tree_util.register_dataclass, data_fields=["part"], meta_fields=["axis", "devices", "count", "dtype"])
@dataclass(frozen=True)
class Part(meta.AxisMetadata):
    """A device's part of a parameter, which :meth:`unbox` makes whole.

    Attributes:
        part: what the device has.
        axis: along which the parameter is split.
        devices: names of the mesh's axes along which its parts lie.
        count: how many parts there are.
        dtype: what it is gathered in, and whole it has.
    """

    part: Any
    axis: int
    devices: str | tuple[str, ...]
    count: int
    dtype: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole."""
        sizes = list(self.part.shape)
        sizes[self.axis] *= self.count
        return tuple(sizes)

    def unbox(self) -> jax.Array:
        """The whole parameter, on every device."""
        return _gathered(self.part, self.axis, self.devices, self.dtype)

    def replace_boxed(self, val: Any) -> Any:
        """Of another part."""
        return replace(self, part=val)

    def add_axis(self, index: int, params: dict[Any, Any]) -> "Part":
        """With a new axis before ``index``."""
        del params
        return replace(self, axis=self.axis + (index <= self.axis))

    def remove_axis(self, index: int, params: dict[Any, Any]) -> "Part":
        """Without the axis ``index``."""
        del params
        return replace(self, axis=self.axis - (index < self.axis))


def as_parts(tree: Tree, *, axes: Tree, devices: str | tuple[str, ...], count: int, dtype: DTypeLike | None) -> Tree:
    """Boxes of what is split.

    Args:
        tree: groups of what a device has.
        axes: along which each leaf is split, or :data:`WHOLE`. Groups that are not in ``tree`` may be in it.
        devices: names of the mesh's axes along which parts lie.
        count: of parts.
        dtype: what networks use kernels in, if that is not the kernels' own: they are gathered in it where it is
            narrower. Vectors of norms are used in float32 whatever networks compute in.
    """

    def boxed(leaf: Any, axis: int) -> Any:
        if axis == WHOLE:
            return leaf
        narrower = dtype is not None and leaf.ndim > 1 and jnp.dtype(dtype).itemsize < leaf.dtype.itemsize
        return Part(leaf, axis, devices, count, jnp.dtype(dtype) if narrower else leaf.dtype)

    return {group: jax.tree.map(boxed, tree[group], axes[group]) for group in tree}


def whole(tree: Any) -> Any:
    """What is in parts, gathered; anything else as it is. For what reads parameters outside of a layer."""
    return meta.unbox(tree)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gathered(part: jax.Array, axis: int, devices: str | tuple[str, ...], dtype: jnp.dtype) -> jax.Array:
    return jax.lax.all_gather(part.astype(dtype), devices, axis=axis, tiled=True)


def _gathered_forward(
    part: jax.Array, axis: int, devices: str | tuple[str, ...], dtype: jnp.dtype
) -> tuple[jax.Array, jax.Array]:
    return _gathered(part, axis, devices, dtype), jnp.zeros((), part.dtype)


def _gathered_backward(
    axis: int, devices: str | tuple[str, ...], dtype: jnp.dtype, like: Any, grad: jax.Array
) -> tuple[jax.Array]:
    """Autodiff would sum in the dtype that was gathered."""
    del dtype
    return (jax.lax.psum_scatter(grad.astype(like.dtype), devices, scatter_dimension=axis, tiled=True),)


_gathered.defvjp(_gathered_forward, _gathered_backward)
