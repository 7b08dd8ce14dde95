# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The training step: compose -> loss -> gradients -> clip -> AdamW -> moving average.

    params_k   = compose(frozen, trainable)
    loss       = Σ over micro-batches and devices of objective(params, examples)     (already divided by n_instances)
    g          = clip(∂loss / ∂trainable[active])
    trainable' = trainable[active] + AdamW(g),   ema' = ema + (1 - decay) (trainable' - ema)

The step is pure: the key of everything random is a function of the root key, the step and the example's number.
Which groups are ``active`` is fixed when the step is made, so a frozen text encoder has no backward pass at all.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from dreambooth_jax.adapters import Adapter
from dreambooth_jax.training.optimizer import Optimizers, clip_by_global_norm
from dreambooth_jax.training.state import TrainState
from dreambooth_jax.trees import Tree

Batch = dict[str, Array]
Metrics = dict[str, Float[Array, ""]]


@runtime_checkable
class Objective(Protocol):
    """Loss of some examples: a sum over them, divided by the whole step's number of instances."""

    def __call__(
        self, params: Tree, batch: Batch, *, root_key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        """(loss, terms to log); both add up over disjoint sets of examples."""
        ...


def make_train_step(
    *,
    objective: Objective,
    adapter: Adapter,
    optimizers: Optimizers,
    active: Sequence[str],
    accumulation: int = 1,
    clip_norm: float | None = 1.0,
    ema_decay: float = 0.0,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """A pure step, to be mapped over devices.

    Args:
        objective: loss of a batch.
        adapter: joins frozen and trainable into the model.
        optimizers: one per group of the trainable tree.
        active: groups that this step trains; the others keep their weights and moments bit for bit.
        accumulation: micro-batches that run one after the other.
        clip_norm: largest norm of the active groups' joint gradient, or None.
        ema_decay: of the moving average, where the state has one.

    Returns:
        ``step(state, frozen, batch, root_key, *, axis_name=None, gather=None) -> (state, metrics)``: ``axis_name`` is
        the mapped axis to add gradients over, ``gather`` makes sharded parameters whole before they are used.
    """

    def train_step(
        state: TrainState,
        frozen: Tree,
        batch: Batch,
        root_key: Key[Array, ""],
        *,
        axis_name: str | None = None,
        gather: Callable[[Tree], Tree] | None = None,
    ) -> tuple[TrainState, Metrics]:
        trained = {group: state.trainable[group] for group in active}
        held = {group: tree for group, tree in state.trainable.items() if group not in active}

        def loss_fn(trained: Tree, examples: Batch) -> tuple[Array, Metrics]:
            params = adapter.compose(frozen, held | trained)
            params = gather(params) if gather else params
            return objective(params, examples, root_key=root_key, step=state.step)

        grads, metrics = accumulate(jax.value_and_grad(loss_fn, has_aux=True), trained, batch, accumulation)
        if axis_name is not None:
            grads, metrics = jax.lax.psum((grads, metrics), axis_name)
        grads, metrics["grad_norm"] = clip_by_global_norm(grads, clip_norm)

        trainable, opt_state = dict(state.trainable), dict(state.opt_state)
        for group in active:
            updates, opt_state[group] = optimizers[group].update(grads[group], opt_state[group], trainable[group])
            trainable[group] = optax.apply_updates(trainable[group], updates)
        ema = moving_average(state.ema, trainable, ema_decay) if state.ema else state.ema
        return TrainState(step=state.step + 1, trainable=trainable, opt_state=opt_state, ema=ema), metrics

    return train_step


def accumulate(
    value_and_grad: Callable[[Tree, Batch], tuple[tuple[Array, Metrics], Tree]],
    params: Tree,
    batch: Batch,
    n_micro: int,
) -> tuple[Tree, Metrics]:
    """Gradients and metrics added up over ``n_micro`` micro-batches, in the memory of one.

    Micro-batch i holds rows i, i + n, i + 2n, ...: so every device of a sharded batch has its share of each.
    """

    def one(examples: Batch) -> tuple[Tree, Metrics]:
        (loss, terms), grads = value_and_grad(params, examples)
        return grads, {"loss": loss} | terms

    if n_micro == 1:
        return one(batch)
    micro = jax.tree.map(lambda x: x.reshape(x.shape[0] // n_micro, n_micro, *x.shape[1:]).swapaxes(0, 1), batch)
    first = jax.tree.map(lambda x: x[0], micro)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(one, first))

    def body(total: Any, examples: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, one(examples)), None

    return jax.lax.scan(body, zeros, micro)[0]


def moving_average(average: Tree, new: Tree, decay: float) -> Tree:
    """average + (1 - decay) (new - average): exact where nothing changed."""
    return jax.tree.map(lambda a, n: a + (1 - decay) * (n - a), average, new)
