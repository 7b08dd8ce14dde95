# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Optimizers by name, with the defaults of their papers where there is no setting.

bytes of state per parameter, in float32 (in brackets with the moments that may be in bfloat16)
adamw 8 (6)   lion 4 (2)   adafactor 0   sgd 4 (2)   muon 4 (2), 8 (6) of vectors   ademamix 12 (8)
prodigy 16    dadapt_adamw 12            schedule_free_adamw 8
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from dreambooth_jax.training.optimizer import (
    Moments,
    Schedule,
    adafactor,
    adamw,
    decayed,
    dtype_of_moments,
    lion,
)
from dreambooth_jax.trees import Tree


class Options(NamedTuple):
    """What there is to set: ``steps`` of the group's stretch, all else as in
    :func:`~dreambooth_jax.training.optimizer.adamw`."""

    schedule: Schedule
    group: str
    steps: int
    beta1: float
    beta2: float
    eps: float
    moments: Moments
    weight_decay: float
    no_decay: Sequence[str]

    @property
    def decayed(self) -> Callable[[Tree], Tree]:
        """Parameters -> which leaves are decayed."""
        return decayed(self.group, self.no_decay)

    def only(self, *names: str) -> dict[str, Any]:
        """The group, its decay, and some others."""
        return {name: getattr(self, name) for name in ("group", "weight_decay", "no_decay", *names)}


Builder = Callable[[Options], optax.GradientTransformation]


class OptimizerKind(NamedTuple):
    """An optimizer.

    Attributes:
        build: it.
        unused: settings that it does not have.
        finds_rate: does it find its learning rate, so that the one that is set is a factor of about 1?
        averages: does it keep other weights to draw with than it takes gradients at?
        measured: does it depend on how many steps there are?
        beta2: its decay of the second moment, where none is set.
    """

    build: Builder
    unused: tuple[str, ...] = ()
    finds_rate: bool = False
    averages: bool = False
    measured: bool = False
    beta2: float = 0.999


def sgd(options: Options) -> optax.GradientTransformation:
    """Momentum beta1, as PyTorch's; decay is decoupled, as AdamW's."""
    return optax.chain(
        optax.trace(options.beta1, accumulator_dtype=dtype_of_moments(options.moments)),
        optax.add_decayed_weights(options.weight_decay, options.decayed),
        optax.scale_by_learning_rate(options.schedule),
    )


def muon(options: Options) -> optax.GradientTransformation:
    """Muon (github.com/KellerJordan/Muon) on matrices and convolutions, Adam on the rest.

    Updates are scaled to a root mean square of 0.2, as Adam's have, so that the learning rate means what AdamW's means
    (arXiv 2502.16982). Momentum is Muon's own, 0.95 and Nesterov's; beta1, beta2 and eps are Adam's.
    """
    dtype = dtype_of_moments(options.moments)
    orthogonal = optax.chain(
        contrib.scale_by_muon(mu_dtype=dtype, weight_dimension_numbers=_as_matrices),
        optax.stateless(_as_large_as_adams),
    )
    adam = optax.scale_by_adam(options.beta1, options.beta2, options.eps, mu_dtype=dtype)
    return optax.chain(
        optax.partition(
            {"matrix": orthogonal, "other": adam},
            lambda params: jax.tree.map(lambda leaf: "matrix" if leaf.ndim in (2, 4) else "other", params),
        ),
        optax.add_decayed_weights(options.weight_decay, options.decayed),
        optax.scale_by_learning_rate(options.schedule),
    )


def _as_matrices(params: Tree) -> Tree:
    """[in, out] and [height, width, in, out]: each as one matrix with ``out`` columns."""
    return jax.tree.map(lambda leaf: contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1), params)


def _as_large_as_adams(updates: Tree, params: Tree | None) -> Tree:
    """Of orthogonal matrices, whose root mean square is 1 / √(the longer side)."""
    del params
    return jax.tree.map(lambda u: u * (0.2 * max(u.size // u.shape[-1], u.shape[-1]) ** 0.5), updates)


def ademamix(options: Options) -> optax.GradientTransformation:
    """AdEMAMix (arXiv 2409.03137): a second, slow first moment, of β3 = 0.9999 and weight α = 5.

    Both are reached at the end of the run, by the paper's schedules.
    """
    slow, mixing, steps = 0.9999, 5.0, max(options.steps, 1)

    def beta3(step: Any) -> Any:
        done = jnp.clip(step / steps, 0.0, 1.0)
        first, last = jnp.log(max(options.beta1, 1e-8)), jnp.log(slow)
        return jnp.minimum(jnp.exp(first * last / ((1 - done) * last + done * first)), slow)

    return contrib.ademamix(
        options.schedule,
        b1=options.beta1,
        b2=options.beta2,
        b3=beta3,
        alpha=optax.linear_schedule(0.0, mixing, steps),
        eps=options.eps,
        mu_dtype=dtype_of_moments(options.moments),
        weight_decay=options.weight_decay,
        mask=options.decayed,
    )


def prodigy(options: Options) -> optax.GradientTransformation:
    """Prodigy (arXiv 2306.06101): AdamW that estimates its rate from how far it has come."""
    starts_at_zero = float(options.schedule(0)) == 0  # the estimate would be 0 / 0

    def with_decay(weight_decay: float) -> optax.GradientTransformation:
        return contrib.prodigy(
            options.schedule,
            betas=(options.beta1, options.beta2),
            eps=options.eps,
            weight_decay=weight_decay,
            safeguard_warmup=starts_at_zero,
        )

    return _sparing(with_decay, options)


def dadapt_adamw(options: Options) -> optax.GradientTransformation:
    """AdamW by D-Adaptation (arXiv 2301.07733), the slower and safer forerunner of Prodigy."""

    def with_decay(weight_decay: float) -> optax.GradientTransformation:
        return contrib.dadapt_adamw(
            lambda step: jnp.maximum(options.schedule(step), 1e-6),  # a rate of 0 would make the estimate 0 / 0
            betas=(options.beta1, options.beta2),
            eps=options.eps,
            weight_decay=weight_decay,
        )

    return _sparing(with_decay, options)


def _sparing(
    with_decay: Callable[[float], optax.GradientTransformation], options: Options
) -> optax.GradientTransformation:
    """An optimizer of optax that decays all leaves or none, decaying some. XLA computes once what both share."""
    decaying, plain = with_decay(options.weight_decay), with_decay(0.0)

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        some, new = decaying.update(grads, state, params)
        none, _ = plain.update(grads, state, params)
        return jax.tree.map(lambda chosen, a, b: a if chosen else b, options.decayed(params), some, none), new

    return optax.GradientTransformation(decaying.init, update)


def schedule_free_adamw(options: Options) -> optax.GradientTransformation:
    """Schedule-free AdamW (arXiv 2405.15682): an average of the iterates in the place of momentum and schedule.

    What is trained are the points y where gradients are taken; what is drawn with is :func:`averaged_weights`.
    """
    base = optax.chain(
        optax.scale_by_rms(decay=options.beta2, eps=options.eps, eps_in_sqrt=False, bias_correction=True),
        optax.add_decayed_weights(options.weight_decay, options.decayed),
        optax.scale_by_learning_rate(options.schedule),
    )
    return contrib.schedule_free(base, options.schedule, b1=options.beta1)


def averaged_weights(opt_state: Any, params: Tree) -> Tree:
    """The weights to draw with of a group: x of schedule-free optimizers; of others, what is trained."""

    def is_free(node: Any) -> bool:
        return isinstance(node, contrib.ScheduleFreeState)

    def is_absent(node: Any) -> bool:  # where several optimizers share the leaves
        return isinstance(node, optax.MaskedNode)

    found = params
    for state in filter(is_free, jax.tree.leaves(opt_state, is_leaf=is_free)):

        def x(z: Any, y: Any, so_far: Any, b1: Any = state.b1) -> Any:
            return so_far if is_absent(z) else (y - (1 - b1) * z) / b1

        found = jax.tree.map(x, state.z, params, found, is_leaf=is_absent)
    return found


KINDS: Mapping[str, OptimizerKind] = {
    "adamw": OptimizerKind(lambda one: adamw(one.schedule, **one.only("beta1", "beta2", "eps", "moments"))),
    "lion": OptimizerKind(
        lambda one: lion(one.schedule, **one.only("beta1", "beta2", "moments")), ("eps",), beta2=0.99
    ),
    "adafactor": OptimizerKind(lambda one: adafactor(one.schedule, **one.only()), ("beta1", "beta2", "eps", "moments")),
    "sgd": OptimizerKind(sgd, ("beta2", "eps")),
    "muon": OptimizerKind(muon),
    "ademamix": OptimizerKind(ademamix, measured=True),
    "prodigy": OptimizerKind(prodigy, ("moments",), finds_rate=True),
    "dadapt_adamw": OptimizerKind(dadapt_adamw, ("moments",), finds_rate=True),
    "schedule_free_adamw": OptimizerKind(schedule_free_adamw, ("moments",), averages=True),
}
"""By the name in ``optimizer.kind``."""


def make_optimizer(
    kind: str,
    schedule: Schedule,
    *,
    group: str,
    steps: int,
    beta1: float,
    beta2: float | None,
    eps: float,
    moments: Moments,
    weight_decay: float,
    no_decay: Sequence[str],
) -> optax.GradientTransformation:
    """The optimizer of a name; what it has no use for is left out. ``beta2`` None is the optimizer's own."""
    one = KINDS[kind]
    options = Options(
        schedule=schedule,
        group=group,
        steps=steps,
        beta1=beta1,
        beta2=one.beta2 if beta2 is None else beta2,
        eps=eps,
        moments=moments,
        weight_decay=weight_decay,
        no_decay=no_decay,
    )
    return one.build(options)
