# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""AdamW, Lion and Adafactor, their learning-rate schedules, and the clip over what is trained at this step.

    bytes of moments per parameter:   AdamW 4 + 4   Lion 4   Adafactor ~0      (first moment in bfloat16: 2 less)

Every group of the trainable tree (``unet``, ``text_encoder``) has an optimizer of its own, with its own schedule and
count of steps. A group that a step does not train is not touched: neither its weights nor its moments move, and
its gradient, which does not exist, cannot enter the norm that the others are clipped by.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dreambooth_jax.trees import Tree, map_named, matcher

Schedule = Callable[[Array | int], Array | float]
Moments = Literal["float32", "bfloat16"]
Optimizers = Mapping[str, optax.GradientTransformation]


def learning_rate_schedule(
    kind: str,
    *,
    peak: float,
    steps: int,
    warmup_steps: int = 0,
    power: float = 2.0,
    cycles: int = 2,
) -> Schedule:
    """Linear warm-up from 0 to ``peak``, then constant, or down to 0 at ``steps``.

    Args:
        kind: the shape after the warm-up; ``polynomial`` is peak · (1 - progress)^power, ``cosine_restarts`` several
            cosines one after the other, ``inverse_sqrt`` falls as 1 / √(1 + s / w), with w steps of warm-up or 10,000
            without one, as in PyTorch's transformers. ``one_cycle`` (arXiv 1708.07120) is a shape of its own: from
            peak / 25 up, within the warm-up or three tenths of the steps, and down to next to nothing.
        peak: largest learning rate.
        steps: optimizer steps of the whole run, warm-up included.
        warmup_steps: optimizer steps of warm-up.
        power: exponent of ``polynomial``.
        cycles: of ``cosine_restarts``.
    """
    decay_steps = max(steps - warmup_steps, 1)
    if kind == "one_cycle":
        rising = warmup_steps / steps if warmup_steps else 0.3
        return optax.cosine_onecycle_schedule(steps, peak, pct_start=rising)
    shapes: dict[str, Schedule] = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, 0.0, decay_steps),
        "cosine": optax.cosine_decay_schedule(peak, decay_steps),
        "polynomial": optax.polynomial_schedule(peak, 0.0, power, decay_steps),
        "cosine_restarts": partial(_cosine_restarts, peak=peak, steps=decay_steps, cycles=cycles),
        "inverse_sqrt": lambda step: peak / jnp.sqrt(1 + step / (warmup_steps or 10_000)),
    }
    if not warmup_steps:
        return shapes[kind]
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), shapes[kind]], [warmup_steps])


def _cosine_restarts(step: Array | int, *, peak: float, steps: int, cycles: int) -> Array:
    progress = step / steps
    falling = 0.5 * peak * (1 + jnp.cos(jnp.pi * (progress * cycles % 1.0)))
    return jnp.where(progress < 1, falling, 0.0)


def adamw(
    schedule: Schedule,
    *,
    group: str,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    moments: Moments = "float32",
    weight_decay: float = 1e-2,
    no_decay: Sequence[str] = (),
) -> optax.GradientTransformation:
    """AdamW (arXiv 1711.05101) on one group of the trainable tree.

    Args:
        schedule: step of this group -> learning rate.
        group: the group's name, the first part of its leaves' names.
        beta1, beta2, eps: of Adam.
        moments: dtype that the first moment is kept in. The second stays float32: in bfloat16 a beta2 of 0.999 would
            never move it, because steps of one thousandth are lost in eight bits.
        weight_decay: decoupled: scaled by the learning rate, as in PyTorch.
        no_decay: patterns of leaf names (``unet/conv_in/bias``) that are not decayed.
    """
    mask = decayed(group, no_decay)
    return optax.adamw(
        schedule, beta1, beta2, eps, mu_dtype=dtype_of_moments(moments), weight_decay=weight_decay, mask=mask
    )


def lion(
    schedule: Schedule,
    *,
    group: str,
    beta1: float = 0.9,
    beta2: float = 0.99,
    moments: Moments = "float32",
    weight_decay: float = 1e-2,
    no_decay: Sequence[str] = (),
) -> optax.GradientTransformation:
    """Lion (arXiv 2302.06675): -lr · (sign(beta1 m + (1 - beta1) g) + weight_decay p), with one moment only.

    Every weight moves by the whole learning rate at each step, so that it wants one three to ten times smaller than
    AdamW's.

    Args:
        beta1, beta2: what the sign and the moment keep of the moment.
        schedule, group, moments, weight_decay, no_decay: as in :func:`adamw`.
    """
    mask = decayed(group, no_decay)
    return optax.lion(schedule, beta1, beta2, mu_dtype=dtype_of_moments(moments), weight_decay=weight_decay, mask=mask)


def adafactor(
    schedule: Schedule, *, group: str, weight_decay: float = 1e-2, no_decay: Sequence[str] = ()
) -> optax.GradientTransformation:
    """Adafactor (arXiv 1804.04235): of a matrix's second moment only the means of its rows and columns are kept.

    Of the paper's parts, those that save memory: no first moment, and factors wherever two dimensions have 128 or more
    (all large kernels). Not its relative steps: the learning rate is the schedule's own, not a multiple of each
    leaf's size, because in fine-tuning it is the rate that sets how far a run moves from the pretrained weights; with
    updates clipped to a root mean square of 1 it means the same as AdamW's. Weight decay is AdamW's, too (optax's own
    leaves out the learning rate).

    Args:
        schedule, group, weight_decay, no_decay: as in :func:`adamw`.
    """
    return optax.chain(
        optax.scale_by_factored_rms(),
        optax.clip_by_block_rms(1.0),
        optax.add_decayed_weights(weight_decay, decayed(group, no_decay)),
        optax.scale_by_learning_rate(schedule),
    )


def decayed(group: str, no_decay: Sequence[str]) -> Callable[[Tree], Tree]:
    """A function of a group's parameters: which leaves are decayed, those whose name no pattern matches."""
    spared = matcher(no_decay)
    return lambda params: map_named(lambda name, leaf: not spared(f"{group}/{name}"), params)


def dtype_of_moments(moments: Moments) -> jnp.dtype | None:
    """For optax, by which None is the dtype of the parameters."""
    # None is the parameters' dtype, which is float64 where these are
    return None if moments == "float32" else jnp.dtype(moments)


def clip_by_global_norm(grads: Tree, max_norm: float | None) -> tuple[Tree, Float[Array, ""]]:
    """(gradients scaled so that their joint norm is at most ``max_norm``, the norm before)."""
    norm = global_norm(grads)
    if max_norm is None:
        return grads, norm
    scale = jnp.minimum(1.0, max_norm / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny))
    return jax.tree.map(lambda g: g * scale, grads), norm


def global_norm(tree: Tree) -> Float[Array, ""]:
    """Root of the sum of all squares.

    All vectors as one: most leaves are biases and scales, and each sum, and each addition of two sums, would be a
    loop of its own to compile and to start.
    """
    leaves = jax.tree.leaves(tree)
    vectors = [leaf for leaf in leaves if leaf.ndim == 1]
    parts = [leaf for leaf in leaves if leaf.ndim != 1] + ([jnp.concatenate(vectors)] if vectors else [])
    return jnp.sqrt(jnp.sum(jnp.stack([jnp.sum(jnp.square(part)) for part in parts])))
