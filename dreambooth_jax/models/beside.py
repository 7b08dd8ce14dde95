# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Small matrices next to a network's layers, of which the network knows nothing.

A layer y = x W + b with its kernel as it is becomes

    y' = ((x · inputs) W + dropout(x · inputs) down up) · outputs + b

They travel with the network's parameters, under ``beside``, at the paths of their layers, and one interceptor reads
them where a layer is called: so Flax takes them through lists of modules and through what is computed again.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.linear import canonicalize_padding
from jaxtyping import Array, Float, Key

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
    """A key for each example, [b], that dropout is drawn from."""


Deltas = Mapping[str, Mapping[str, Beside]]
"""Network -> path of a layer (``mid_block/attentions_0/proj_in``) -> what stands next to it."""


def attached(params: Tree, deltas: Deltas, *, keys: Key[Array, "b"] | None = None) -> Tree:
    """Parameters of networks with what stands next to their layers, for :func:`apply`.

    Args:
        params: network -> its parameters.
        deltas: of networks that are there.
        keys: of the examples that the networks will see; without them nothing drops out.

    Raises:
        ValueError: if there is no such layer.
    """
    return params | {name: _network(params[name], layers, keys) for name, layers in deltas.items() if layers}


def _network(params: Tree, layers: Mapping[str, Beside], keys: Key[Array, "b"] | None) -> Tree:
    known = flatten(params)
    leaves: dict[str, Any] = {}
    for path, one in layers.items():
        if f"{path}/kernel" not in known:
            raise ValueError(f"there is no layer {path} to put anything beside")
        dropped = one.dropout is not None and keys is not None
        one = one._replace(keys=keys) if dropped else one._replace(dropout=None)
        leaves |= {f"{path}/{name}": part for name, part in one._asdict().items() if part is not None}
    return {**params, BESIDE: unflatten(leaves)}


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
        small = x if one.keys is None else _dropped(x, one, "/".join(module.path))
        y = y + _product(module, small, one.down.astype(y.dtype), one.up.astype(y.dtype))
    if one.outputs is None:
        return y
    outputs = _along_channels(one.outputs, y)
    if not module.use_bias:
        return y * outputs
    bias = _along_channels(module.get_variable("params", "bias"), y)
    return y * outputs + bias * (1 - outputs)  # which the layer has added already


def _along_channels(factors: Float[Array, "c"], x: Array) -> Array:
    """In the dtype of x, with as many axes."""
    return factors.astype(x.dtype).reshape(*[1] * (x.ndim - 1), -1)


def _own(module: nn.Module, name: str) -> Any:
    return module.get_variable(BESIDE, name) if module.has_variable(BESIDE, name) else None


def _dropped(x: Float[Array, "b *positions i"], one: Beside, path: str) -> Float[Array, "b *positions i"]:
    """Each example by its own key and the layer's name; what stays is as much larger."""

    def kept(key: Key[Array, ""]) -> Array:
        own = jax.random.fold_in(key, zlib.crc32(path.encode()))
        return jax.random.bernoulli(own, 1 - one.dropout, x.shape[1:])

    return jnp.where(jax.vmap(kept)(one.keys), x / (1 - one.dropout).astype(x.dtype), 0)


def _product(module: nn.Dense | nn.Conv, x: Array, down: Array, up: Array) -> Array:
    """x down up; a convolution of size one is a product of matrices, too."""
    up = up.reshape(up.shape[-2:])
    if isinstance(module, nn.Conv) and down.shape[:2] != (1, 1):
        strides = module.strides if isinstance(module.strides, tuple) else (module.strides or 1,) * 2
        padding, layout = canonicalize_padding(module.padding, 2), ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x.astype(up.dtype), down, strides, padding, dimension_numbers=layout) @ up
    return x.astype(up.dtype) @ down.reshape(down.shape[-2:]) @ up
