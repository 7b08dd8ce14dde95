# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Floating-point operations of a function, counted in what jax traced of it.

Two for every multiplication of matrix products and convolutions; all else is small beside them. Unlike the compilers'
own counts these know how often a loop runs, are the same for all devices, and include what rematerialisation repeats.
"""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def flops(function: Callable, *arguments: Any) -> int:
    """Operations of ``function(*arguments)``; shapes (``jax.ShapeDtypeStruct``) are enough. A ``while`` counts once."""
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape, result = _shape(equation.invars[0]), _shape(equation.outvars[0])
            total += 2 * prod(shape[axis] for axis in contracted) * prod(result)
        elif name == "conv_general_dilated":
            total += _convolution(equation)
        elif name.startswith("dot_product_attention"):
            total += _fused_attention(equation)
        elif name == "pallas_call":
            total += prod(params["grid_mapping"].grid) * _count(params["jaxpr"])
        else:
            inner = [_count(inner) for value in params.values() for inner in _jaxprs(value)]
            total += max(inner, default=0) if name == "cond" else params.get("length", 1) * sum(inner)
    return total


def _jaxprs(value: Any) -> Iterator[Jaxpr]:
    if isinstance(value, ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, Jaxpr):
        yield value
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from _jaxprs(one)


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _convolution(equation: Any) -> int:
    kernel = _shape(equation.invars[1])
    _, inputs, *spatial = (kernel[axis] for axis in equation.params["dimension_numbers"].rhs_spec)
    # of an input that was spread out by zeros (the gradient of a convolution with strides) only the rest counts
    dense = prod(spatial) * inputs / prod(equation.params["lhs_dilation"])
    return int(2 * dense * prod(_shape(equation.outvars[0])))


def _fused_attention(equation: Any) -> int:
    """cuDNN's: two products of queries and keys forward, five backward; query [b, t, n, d], key [b, s, n, d]."""
    query, key = map(_shape, equation.invars[:2])
    products = 5 if "bwd" in equation.primitive.name else 2
    return 2 * products * prod(query) * key[1]
