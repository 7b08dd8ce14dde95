# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The training step: compose -> loss -> gradients -> clip -> AdamW -> moving average.

    params_k   = compose(frozen, trainable)          or with small matrices next to the layers, where the adapter can
    loss       = Σ over micro-batches and devices of objective(params, examples)     (already divided by n_instances)
    g          = clip(∂loss / ∂trainable[active])
    trainable' = project(trainable[active] + AdamW(g)),   ema' = ema + (1 - decay) (trainable' - ema)

The step is pure: the key of everything random is a function of the root key, the step and the example's number.
Gradients add up over disjoint sets of examples; the rest is done once, with their sum. So examples of two sizes are two
parts of one batch, that the step takes one after the other.
Which groups are ``active`` is fixed when the step is made, so a frozen text encoder has no backward pass at all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from dreambooth_jax import rng
from dreambooth_jax.adapters import Adapter, part_for
from dreambooth_jax.models.beside import attached
from dreambooth_jax.training.optimizer import Optimizers, clip_by_global_norm
from dreambooth_jax.training.state import TrainState
from dreambooth_jax.trees import Tree

Batch = dict[str, Array]
Metrics = dict[str, Float[Array, ""]]
Terms = dict[str, Array]
"""Metrics of one run, or of each of several members."""


@runtime_checkable
class Objective(Protocol):
    """Loss of some examples: a sum over them, divided by the whole step's number of instances."""

    def __call__(
        self, params: Tree, batch: Batch, *, root_key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        """(loss, terms to log); both add up over disjoint sets of examples."""
        ...


def _as_it_is(tree: Tree) -> Tree:
    return tree


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainStep:
    """A pure step, in the two parts that a mapper spreads over devices; called, it is the whole step on one device.

    Attributes:
        objective: loss of a batch.
        adapter: joins frozen and trainable into the model.
        optimizers: one per group of the trainable tree.
        active: groups that this step trains; the others keep weights, moments and moving average bit for bit.
        accumulation: micro-batches that run one after the other.
        clip_norm: largest norm of the active groups' joint gradient, or None.
        ema_decay: of the moving average, where the state has one.
        dtype: what the objective's networks use kernels in; None if that is the parameters' own.
        networks: those that the objective runs, which are all that is composed; None is every network.
    """

    objective: Objective
    adapter: Adapter
    optimizers: Optimizers
    active: Sequence[str]
    accumulation: int = 1
    clip_norm: float | None = 1.0
    ema_decay: float = 0.0
    dtype: DTypeLike | None = None
    networks: Sequence[str] | None = None

    def gradients(
        self,
        trainable: Tree,
        frozen: Tree,
        batch: Batch | tuple[Batch, ...],
        root_key: Key[Array, ""],
        step: Int[Array, ""],
        *,
        parts_of_trainable: Callable[[Tree], Tree] = _as_it_is,
        parts_of_frozen: Callable[[Tree], Tree] = _as_it_is,
    ) -> tuple[Tree, Metrics]:
        """(gradients of the active groups, metrics): sums over the examples of ``batch``.

        Args:
            trainable, frozen: as the adapter has them.
            batch: some examples of the step, or several parts, each of examples of one size.
            root_key: of the run.
            step: number of the step.
            parts_of_trainable, parts_of_frozen: where devices have parts of parameters, put them into boxes, which are
                made whole where they are used.
        """
        trained = {group: trainable[group] for group in self.active}
        held = {group: tree for group, tree in trainable.items() if group not in self.active}
        if self.networks is not None:
            frozen, held = part_for(self.adapter, self.networks, frozen, held)

        def loss_fn(trained: Tree, examples: Batch) -> tuple[Array, Metrics]:
            both = parts_of_frozen(frozen), parts_of_trainable(held | trained)
            if self.adapter.beside is None:
                params = self.adapter.compose(*both)
            else:
                keys = rng.per_example(rng.stream(root_key, "dropout", step), examples["index"])
                params = attached(*self.adapter.beside(*both), keys=keys)
            return self.objective(params, examples, root_key=root_key, step=step)

        value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
        return sum_of_parts(value_and_grad, trained, batch, accumulation=self.accumulation)

    def update(self, state: TrainState, grads: Tree, metrics: Metrics) -> tuple[TrainState, Metrics]:
        """(next state, metrics with the gradient's norm) from the sums over all examples of the step."""
        grads, norm = clip_by_global_norm(grads, self.clip_norm)
        trainable, opt_state = dict(state.trainable), dict(state.opt_state)
        for group in self.active:
            optimizer = self.optimizers[group]
            updates, opt_state[group] = optimizer.update(grads[group], opt_state[group], trainable[group])
            moved = optax.apply_updates(trainable[group], updates)
            trainable[group] = self.adapter.project(group, trainable[group], moved)
        ema = dict(state.ema)
        for group in self.active if ema else ():
            ema[group] = moving_average(ema[group], trainable[group], self.ema_decay)
        new = TrainState(step=state.step + 1, trainable=trainable, opt_state=opt_state, ema=ema)
        return new, metrics | {"grad_norm": norm}

    def __call__(
        self, state: TrainState, frozen: Tree, batch: Batch | tuple[Batch, ...], root_key: Key[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        """Both, one after the other."""
        return self.update(state, *self.gradients(state.trainable, frozen, batch, root_key, state.step))


def sum_of_parts(
    value_and_grad: Callable[[Tree, Batch], tuple[tuple[Array, Terms], Tree]],
    params: Tree,
    batch: Batch | tuple[Batch, ...],
    *,
    accumulation: int,
) -> tuple[Tree, Terms]:
    """Gradients and metrics added up over the parts of a batch, and over the micro-batches of each."""
    first, *others = batch if isinstance(batch, tuple) else (batch,)
    total = accumulate(value_and_grad, params, first, accumulation)
    for part in others:
        # not before the part before it is done: both at once would need the activations of both
        params, total = jax.lax.optimization_barrier((params, total))
        total = jax.tree.map(jnp.add, total, accumulate(value_and_grad, params, part, accumulation))
    return total


def accumulate(
    value_and_grad: Callable[[Tree, Batch], tuple[tuple[Array, Terms], Tree]],
    params: Tree,
    batch: Batch,
    n_micro: int,
) -> tuple[Tree, Terms]:
    """Gradients and metrics added up over ``n_micro`` micro-batches, in the memory of one.

    Micro-batch i holds rows i, i + n, i + 2n, ...: so every device of a sharded batch has its share of each.
    """

    def one(examples: Batch) -> tuple[Tree, Terms]:
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
