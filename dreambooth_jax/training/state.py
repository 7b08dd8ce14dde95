# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What changes from step to step."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dreambooth_jax.training.optimizer import Optimizers
from dreambooth_jax.trees import Tree


@flax.struct.dataclass
class TrainState:
    """A pytree.

    Attributes:
        step: optimizer steps taken, int32 scalar.
        trainable: the adapter's trainable tree, float32; its first level are the groups (``unet``, ``text_encoder``).
        opt_state: optimizer state of each group.
        ema: moving average of ``trainable``, or an empty dict where none is kept.
    """

    step: Any  # jax.tree.map also puts shapes and shardings here
    trainable: Tree
    opt_state: dict[str, Any]
    ema: Tree


def init_state(trainable: Tree, optimizers: Optimizers, *, with_ema: bool) -> TrainState:
    """The state before the first step.

    Args:
        trainable: what the adapter's ``init`` gave. The state takes its buffers over, and the first step donates them:
            a copy would double the model at the moment when memory is tightest.
        optimizers: one for each first-level key of ``trainable``.
        with_ema: keep a moving average.
    """
    return TrainState(
        step=jnp.asarray(np.zeros((), np.int32)),
        trainable=trainable,
        opt_state={group: _init(optimizers[group], trainable[group]) for group in trainable},
        ema=_copy(trainable) if with_ema else {},
    )


def _copy(params: Tree) -> Tree:
    """Laid out as they are. One program, as below."""
    shardings = jax.tree.map(lambda param: getattr(param, "sharding", None), params)
    return jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=shardings)(params)


def _init(optimizer: optax.GradientTransformation, params: Tree) -> Any:
    """Moments lie as their parameters do. One program: otherwise, each shape of a parameter would be one."""

    def beside(moment: Any, param: Any) -> Any:
        if is_absent(moment):
            return moment
        return getattr(param, "sharding", None) if moment.shape == param.shape else None

    def is_absent(moment: Any) -> bool:  # where several optimizers share the leaves
        return isinstance(moment, optax.MaskedNode)

    shapes = jax.eval_shape(optimizer.init, params)
    shardings = optax.tree_map_params(
        optimizer, beside, shapes, params, transform_non_params=lambda _: None, is_leaf=is_absent
    )
    return jax.jit(optimizer.init, out_shardings=shardings)(params)
