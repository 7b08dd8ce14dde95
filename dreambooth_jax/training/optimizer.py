# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""AdamW, its learning-rate schedules, and the clip over what is trained at this step.

Every group of the trainable tree (``unet``, ``text_encoder``) has an optimizer of its own, with its own schedule and
count of steps. A group that a step does not train is not touched: neither its weights nor its moments move, and
its gradient, which does not exist, cannot enter the norm that the others are clipped by.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dreambooth_jax.trees import Tree, map_named, matcher

Schedule = Callable[[Array | int], Array | float]
Optimizers = Mapping[str, optax.GradientTransformation]


def learning_rate_schedule(
    kind: Literal["constant", "linear", "cosine", "polynomial"],
    *,
    peak: float,
    steps: int,
    warmup_steps: int = 0,
    power: float = 2.0,
) -> Schedule:
    """Linear warm-up from 0 to ``peak``, then constant, or down to 0 at ``steps``.

    Args:
        kind: the shape after the warm-up; ``polynomial`` is peak · (1 - progress)^power.
        peak: largest learning rate.
        steps: optimizer steps of the whole run, warm-up included.
        warmup_steps: optimizer steps of warm-up.
        power: exponent of ``polynomial``.
    """
    decay_steps = max(steps - warmup_steps, 1)
    shapes: dict[str, Schedule] = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, 0.0, decay_steps),
        "cosine": optax.cosine_decay_schedule(peak, decay_steps),
        "polynomial": optax.polynomial_schedule(peak, 0.0, power, decay_steps),
    }
    if not warmup_steps:
        return shapes[kind]
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), shapes[kind]], [warmup_steps])


def adamw(
    schedule: Schedule,
    *,
    group: str,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    no_decay: Sequence[str] = (),
) -> optax.GradientTransformation:
    """AdamW (arXiv 1711.05101) on one group of the trainable tree.

    Args:
        schedule: step of this group -> learning rate.
        group: the group's name, the first part of its leaves' names.
        beta1, beta2, eps: of Adam.
        weight_decay: decoupled: scaled by the learning rate, as in PyTorch.
        no_decay: patterns of leaf names (``unet/conv_in/bias``) that are not decayed.
    """
    spared = matcher(no_decay)

    def decayed(params: Tree) -> Tree:
        return map_named(lambda name, leaf: not spared(f"{group}/{name}"), params)

    return optax.adamw(schedule, b1=beta1, b2=beta2, eps=eps, weight_decay=weight_decay, mask=decayed)


def clip_by_global_norm(grads: Tree, max_norm: float | None) -> tuple[Tree, Float[Array, ""]]:
    """(gradients scaled so that their joint norm is at most ``max_norm``, the norm before)."""
    norm = optax.tree.norm(grads)
    if max_norm is None:
        return grads, norm
    scale = jnp.minimum(1.0, max_norm / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny))
    return jax.tree.map(lambda g: g * scale, grads), norm
