# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""One training step for many members: subjects, or cells of a sweep, that share a frozen base and a program.

    rows        the network runs once over the rows of all members, [S·b, ...]; base layers are one product
    beside      small matrices have a leading axis: member s's rows meet its own, x W + x_s A_s B_s
    losses [S]  each member's own sum over its rows; the gradient of their total is each member's own gradient
    update      vmap of the ordinary update: clip, optimizer, moving average

A member takes a step where

    active = (step = now < steps) and its loss and its gradient's norm are finite

and keeps its state bit for bit where not. So one that has ended, or whose loss was not finite once, never moves again,
and nothing that it computes reaches another member: no sum runs over members.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from dreambooth_jax import rng
from dreambooth_jax.adapters import Adapter, part_for
from dreambooth_jax.models.beside import attached
from dreambooth_jax.training.state import TrainState
from dreambooth_jax.training.step import Batch, Metrics, Terms, TrainStep, sum_of_parts
from dreambooth_jax.trees import Tree


class GroupInputs(NamedTuple):
    """How each member trains one group of what is trained: data, of which a program does not depend.

    Attributes:
        start, stop: the group moves in steps ``start`` up to, but without, ``stop``.
        hyper: what its optimizer is made of (``MemberStep.optimizers``), a pytree of leaves [S, ...]: tables of
            learning rates [S, T] by the group's own steps.
    """

    start: Int[Array, "S"]
    stop: Int[Array, "S"]
    hyper: Any


class MemberInputs(NamedTuple):
    """What is each member's own, besides its state and its rows.

    Attributes:
        keys: root keys: everything random of a member descends from its own.
        steps: how many each member takes.
        now: number of the step that the rows are of. A member whose state has another number does not move.
        groups: by the name of a group; all that some step trains.
    """

    keys: Key[Array, "S"]
    steps: Int[Array, "S"]
    now: Int[Array, ""]
    groups: Mapping[str, GroupInputs]


@runtime_checkable
class MemberObjective(Protocol):
    """An objective in three parts, of which the middle one is for the rows of all members at once."""

    def draw(self, batch: Batch, *, root_key: Key[Array, ""], step: Int[Array, ""]) -> Any:
        """What is random about the rows of one member; leaves have a row for each."""
        ...

    def row_errors(
        self, params: Tree, batch: Batch, draws: Any, *, members: int = 1
    ) -> tuple[Float[Array, "b"], Float[Array, "b"]]:
        """(error, weight) of each row, whose members' rows follow each other."""
        ...

    def reduced(
        self, errors: Float[Array, "b"], weight: Float[Array, "b"], batch: Batch
    ) -> tuple[Float[Array, ""], Metrics]:
        """(loss, terms to log) of the rows of one member; both add up over disjoint sets of rows."""
        ...


def _as_it_is(tree: Tree) -> Tree:
    return tree


@dataclass(frozen=True, kw_only=True, eq=False)
class MemberStep:
    """A pure step for S members, in the two parts of :class:`~dreambooth_jax.training.step.TrainStep`.

    The state's leaves, its ``step`` too, have a leading axis of members; ``frozen`` has none. Rows of a batch are
    [S·b, ...], those of a member side by side, and ``index`` counts each member's own, as if it were alone. Metrics are
    [S], with ``loss``, ``grad_norm`` and ``active``: did the member move?

    Attributes:
        objective: loss of rows.
        adapter: one that has ``members``.
        optimizers: of each group, one member's hyper-parameters (``GroupInputs.hyper`` without its first axis) -> its
            optimizer. It is made anew inside the program, so that they may be traced.
        active: groups that this step has gradients of; a member moves those of them whose stretch has ``now`` in it.
        accumulation: micro-batches that run one after the other, each with rows of every member.
        clip_norm: largest norm of the gradient of the groups that a member moves, or None.
        ema_decay: of the moving average, where the state has one.
        dtype: what the objective's networks use kernels in; None if that is the parameters' own.
        networks: those that the objective runs; None is every network.
    """

    objective: MemberObjective
    adapter: Adapter
    optimizers: Mapping[str, Callable[[Any], optax.GradientTransformation]]
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
        members: MemberInputs,
        step: Int[Array, "S"],
        *,
        parts_of_frozen: Callable[[Tree], Tree] = _as_it_is,
    ) -> tuple[Tree, Terms]:
        """(gradients of the active groups [S, ...], metrics [S]): of each member, sums over its rows of ``batch``.

        Args:
            trainable: of all members.
            frozen: shared by them.
            batch: rows of all members, as many of each; or several parts, each of rows of one size.
            members: each member's own.
            step: number of each member's step.
            parts_of_frozen: where devices have parts of parameters, puts them into boxes, which are made whole where
                they are used.
        """
        trained = {group: trainable[group] for group in self.active}
        held = {group: tree for group, tree in trainable.items() if group not in self.active}
        if self.networks is not None:
            frozen, held = part_for(self.adapter, self.networks, frozen, held)

        def loss_fn(trained: Tree, rows: Batch) -> tuple[Array, Terms]:
            params = self._params(parts_of_frozen(frozen), held | trained, rows, members.keys, step)
            losses, terms = self._losses(params, rows, members.keys, step)
            return jnp.sum(losses), terms | {"loss": losses}

        value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
        return sum_of_parts(value_and_grad, trained, batch, accumulation=self.accumulation)

    def _params(self, frozen: Tree, trainable: Tree, rows: Batch, keys: Key[Array, "S"], step: Int[Array, "S"]) -> Tree:
        """The shared networks, with what is each member's own next to their layers."""
        assert self.adapter.members is not None
        # None: what is shared has no axis of members, or else vmap refuses
        apart = jax.vmap(self.adapter.members, in_axes=(None, 0), out_axes=(None, 0))
        own = jax.vmap(lambda key, step, index: rng.per_example(rng.stream(key, "dropout", step), index))
        index = by_member(rows["index"], len(step))
        return attached(*apart(frozen, trainable), keys=own(keys, step, index).reshape(-1))

    def _losses(
        self, params: Tree, rows: Batch, keys: Key[Array, "S"], step: Int[Array, "S"]
    ) -> tuple[Float[Array, "S"], Terms]:
        count = len(step)
        apart = by_member(rows, count)
        draws = jax.vmap(lambda own, key, step: self.objective.draw(own, root_key=key, step=step))(apart, keys, step)
        errors, weight = self.objective.row_errors(params, rows, as_rows(draws), members=count)
        return jax.vmap(self.objective.reduced)(by_member(errors, count), by_member(weight, count), apart)

    def update(self, state: TrainState, grads: Tree, metrics: Terms, members: MemberInputs) -> tuple[TrainState, Terms]:
        """(next state, metrics with norms and who moved) from each member's sums over all its rows."""
        one = partial(self._update_one, members.now)
        return jax.vmap(one)(state, grads, metrics, members.steps, {name: members.groups[name] for name in self.active})

    def _update_one(
        self,
        now: Int[Array, ""],
        state: TrainState,
        grads: Tree,
        metrics: Metrics,
        steps: Int[Array, ""],
        groups: Mapping[str, GroupInputs],
    ) -> tuple[TrainState, Terms]:
        moves = {name: (one.start <= now) & (now < one.stop) for name, one in groups.items()}
        grads = {name: _where(moves[name], tree, jax.tree.map(jnp.zeros_like, tree)) for name, tree in grads.items()}
        alone = TrainStep(
            objective=_not_called,
            adapter=self.adapter,
            optimizers={name: self.optimizers[name](one.hyper) for name, one in groups.items()},
            active=self.active,
            clip_norm=self.clip_norm,
            ema_decay=self.ema_decay,
        )
        new, metrics = alone.update(state, grads, metrics)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        active = (state.step == now) & (now < steps) & finite

        def kept(old: Tree, new: Tree) -> Tree:
            chosen = {name: _where(active & moves[name], new[name], old[name]) for name in moves if name in old}
            return {**old, **chosen}

        kept_state = TrainState(
            step=jnp.where(active, new.step, state.step),
            trainable=kept(state.trainable, new.trainable),
            opt_state=kept(state.opt_state, new.opt_state),
            ema=kept(state.ema, new.ema),
        )
        return kept_state, metrics | {"active": active}

    def __call__(
        self, state: TrainState, frozen: Tree, batch: Batch | tuple[Batch, ...], members: MemberInputs
    ) -> tuple[TrainState, Terms]:
        """Both parts, one after the other."""
        sums = self.gradients(state.trainable, frozen, batch, members, state.step)
        return self.update(state, *sums, members)


@jax.jit
def stack_members(trees: Sequence[Any]) -> Any:
    """States, or keys, of members that were made one by one -> one with a leading axis [S]."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@jax.jit
def member_of(tree: Any, number: int | Int[Array, ""]) -> Any:
    """Of leaves [S, ...], those of one member."""
    return jax.tree.map(lambda leaf: leaf[number], tree)


def by_member(tree: Any, count: int) -> Any:
    """[S·b, ...] -> [S, b, ...]"""
    return jax.tree.map(lambda rows: rows.reshape(count, rows.shape[0] // count, *rows.shape[1:]), tree)


def as_rows(tree: Any) -> Any:
    """[S, b, ...] -> [S·b, ...]"""
    return jax.tree.map(lambda rows: rows.reshape(-1, *rows.shape[2:]), tree)


def _where(condition: Bool[Array, ""], new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _not_called(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("an update has no objective")
