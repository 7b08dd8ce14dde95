# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Small matrices next to a network's layers, of which the network knows nothing.

A layer y = x W + b with its kernel as it is becomes

    y' = ((x · inputs) W + dropout(x · inputs) down up) · outputs + b

They travel with the network's parameters, under ``beside``, at the paths of their layers, and one interceptor reads
them where a layer is called: so Flax takes them through lists of modules and through what is computed again.

All may have a leading axis of members, [S, ...]: those of a batch whose rows are [S·b, ...], as many of each member and
one member after the other. The layer itself is one product over all rows.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.linear import canonicalize_padding
from jaxtyping import Array, Float, Key, Shaped

from dreambooth_jax.models.parts import whole
from dreambooth_jax.trees import Tree, flatten, unflatten

BESIDE = "beside"
_inside: ContextVar[bool] = ContextVar("inside", default=False)


class Beside(NamedTuple):
    """What stands next to one layer; None is what does not take part.

    In convolutions ``down`` is one of the layer's size and stride, [h, w, i, r]; [1, 1, i, r] where that is 1.
    """

    down: Any = None
    """[i, r]"""
    up: Any = None
    """[r, o], or [1, 1, r, o]."""
    inputs: Any = None
    """Factors of the layer's input channels, [i]."""
    outputs: Any = None
    """Factors of its output channels, [o]."""
    dropout: Any = None
    """Share of the inputs of ``down`` that count nothing."""
    keys: Any = None
    """A key for each row, that dropout is drawn from."""
    added: Any = None
    """Of a table of vectors those behind its end, [n, c], in the place of the module's own."""


Deltas = Mapping[str, Mapping[str, Beside]]
"""Network -> path of a layer (``mid_block/attentions_0/proj_in``) -> what stands next to it."""


def attached(params: Tree, deltas: Deltas, *, keys: Key[Array, "b"] | None = None) -> Tree:
    """Parameters of networks with what stands next to their layers, for :func:`apply`.

    Args:
        params: network -> its parameters.
        deltas: of networks that are there.
        keys: of the rows that the networks will see; without them nothing drops out.

    Raises:
        ValueError: if there is no such layer.
    """
    return params | {name: _network(params[name], layers, keys) for name, layers in deltas.items() if layers}


def _network(params: Tree, layers: Mapping[str, Beside], keys: Key[Array, "b"] | None) -> Tree:
    known = flatten(params)
    leaves: dict[str, Any] = {}
    for path, one in layers.items():
        if f"{path}/{'embedding' if one.added is not None else 'kernel'}" not in known:
            raise ValueError(f"there is no layer {path} to put anything beside")
        if one.dropout is None or keys is None:
            one = one._replace(dropout=None)
        else:
            one = one._replace(keys=_of_layer(keys, path))
        leaves |= {f"{path}/{name}": part for name, part in one._asdict().items() if part is not None}
    return {**params, BESIDE: unflatten(leaves)}


def _of_layer(keys: Key[Array, "b"], path: str) -> Key[Array, "b"]:
    """Each layer's own, by its name: no two drop the same."""
    return jax.vmap(lambda key: jax.random.fold_in(key, zlib.crc32(path.encode())))(keys)


def apply(module: nn.Module, params: Tree, *inputs: Any, method: str | None = None) -> Any:
    """What a module, or one of its methods, makes of its inputs.

    Args:
        module: the network.
        params: its parameters; :func:`attached` may have put something next to its layers.
        inputs: of the method.
        method: its name; by default that of calling it.
    """
    variables = {"params": {name: tree for name, tree in params.items() if name != BESIDE}}
    if BESIDE not in params:
        return module.apply(variables, *inputs, method=method)
    with _looking():
        return module.apply(variables | {BESIDE: params[BESIDE]}, *inputs, method=method)


@contextmanager
def _looking() -> Iterator[None]:
    """Entered where the network is traced, since compiled programs do not see it; a second time would double all."""
    again = _inside.get()
    token = _inside.set(True)
    try:
        with nullcontext() if again else nn.intercept_methods(_intercept):
            yield
    finally:
        _inside.reset(token)


def _intercept(
    layer: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], context: nn.module.InterceptorContext
) -> Any:
    module = context.module
    if context.method_name != "__call__" or not isinstance(module, (nn.Dense, nn.Conv)):
        return layer(*args, **kwargs)
    one = Beside(*(_own(module, name) for name in Beside._fields))
    if all(part is None for part in one):
        return layer(*args, **kwargs)
    (x,) = args
    if one.inputs is not None:
        x = x * _along_channels(one.inputs, x)
    y = layer(x)
    if one.down is not None:
        small = x if one.keys is None else _dropped(x, one)
        y = y + _product(module, small, one.down.astype(y.dtype), one.up.astype(y.dtype))
    if one.outputs is None:
        return y
    outputs = _along_channels(one.outputs, y)
    if not module.use_bias:
        return y * outputs
    bias = _along_channels(whole(module.get_variable("params", "bias")), y)
    return y * outputs + bias * (1 - outputs)  # which the layer has added already


def per_row(values: Shaped[Array, "..."], rows: int) -> Shaped[Array, "..."]:
    """Of members [S, ...], those of each of their rows."""
    return jnp.repeat(values, rows // values.shape[0], axis=0)


def _along_channels(factors: Float[Array, "..."], x: Array) -> Array:
    """[c] or [S, c], in the dtype of x and with as many axes."""
    factors = factors.astype(x.dtype)
    own = factors[None] if factors.ndim == 1 else per_row(factors, x.shape[0])
    return own.reshape(own.shape[0], *[1] * (x.ndim - 2), -1)


def _own(module: nn.Module, name: str) -> Any:
    return whole(module.get_variable(BESIDE, name)) if module.has_variable(BESIDE, name) else None


def _dropped(x: Float[Array, "b *positions i"], one: Beside) -> Float[Array, "b *positions i"]:
    """Each row by its own key; what stays is as much larger."""

    def dropped(row: Array, key: Key[Array, ""], share: Array) -> Array:
        kept = jax.random.bernoulli(key, 1 - share, row.shape)
        return jnp.where(kept, row / (1 - share).astype(row.dtype), 0)

    shares = per_row(jnp.atleast_1d(one.dropout), x.shape[0])
    return jax.vmap(dropped)(x, one.keys, shares)


def _product(module: nn.Dense | nn.Conv, x: Array, down: Array, up: Array) -> Array:
    """x down up; a convolution of size one is a product of matrices, too."""
    if down.ndim % 2:  # [S, ...]
        return _product_of_members(module, x.astype(up.dtype), down, up)
    up = up.reshape(up.shape[-2:])
    if isinstance(module, nn.Conv) and down.shape[:2] != (1, 1):
        layout = ("NHWC", "HWIO", "NHWC")
        small = jax.lax.conv_general_dilated(x.astype(up.dtype), down, *_window(module), dimension_numbers=layout)
        return small @ up
    return x.astype(up.dtype) @ down.reshape(down.shape[-2:]) @ up


def _window(module: nn.Conv) -> tuple[tuple[int, ...], Any]:
    """(strides, padding)."""
    strides = module.strides if isinstance(module.strides, tuple) else (module.strides or 1,) * 2
    return strides, canonicalize_padding(module.padding, 2)


def _product_of_members(
    module: nn.Dense | nn.Conv, x: Float[Array, "b *positions i"], down: Array, up: Array
) -> Float[Array, "b *new_positions o"]:
    """Each member's rows times its own matrices: two batched products."""
    count, rank, outputs = up.shape[0], up.shape[-2], up.shape[-1]
    if isinstance(module, nn.Conv) and down.shape[1:3] != (1, 1):
        small = _convolved(module, x, down)
    else:
        down = down.reshape(count, -1, rank)
        small = (x.reshape(count, -1, x.shape[-1]) @ down).reshape(*x.shape[:-1], rank)
    return (small.reshape(count, -1, rank) @ up.reshape(count, rank, outputs)).reshape(*small.shape[:-1], outputs)


def _convolved(module: nn.Conv, x: Float[Array, "b h w i"], down: Float[Array, "S k l i r"]) -> Float[Array, "b y x r"]:
    """Each member's rows, convolved with its own kernel: products with all its k·l matrices at every position, of which
    those in a window are added up.

    A convolution would have a group for each member: slow, and with one sum over all groups' channels where a
    processor has no better way, so that what is not finite in one member would reach the others.
    """
    count, height, width, inputs, rank = down.shape
    strides, padding = _window(module)
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], (height, width), strides, padding)
    matrices = jnp.moveaxis(down, 3, 1).reshape(count, inputs, -1)
    products = (x.reshape(count, -1, inputs) @ matrices).reshape(*x.shape[:3], height, width, rank)
    products = jnp.pad(products, ((0, 0), *padding, (0, 0), (0, 0), (0, 0)))
    tall, wide = products.shape[1] - height + 1, products.shape[2] - width + 1
    windows = [
        products[:, i : i + tall : strides[0], j : j + wide : strides[1], i, j]
        for i in range(height)
        for j in range(width)
    ]
    return reduce(jnp.add, windows)
