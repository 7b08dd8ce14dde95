# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Aspect-ratio buckets: a few shapes that photos are cut to, instead of one, so that little of a photo is lost.

    512x512, 5 shapes, no side more than twice the other  ->  384x640  448x576  512x512  576x448  640x384

The area stays as near below that of the resolution as multiples of the step allow, so each shape's training step needs
about the same memory. Shapes are known from the settings alone: every step is compiled, and its memory known, before
the first photo is read.
"""

from collections.abc import Sequence
from math import log

import numpy as np

from dreambooth_jax.errors import InputError
from dreambooth_jax.size import Size


def bucket_sizes(size: Size, *, count: int, step: int, longest: float) -> tuple[Size, ...]:
    """The shapes, from the tallest to the widest; ``size`` itself is one of them.

    Args:
        size: whose area is kept.
        count: shapes to have; fewer where there are no more within the limit.
        step: all sides of the others are multiples of it.
        longest: limit of the longer side over the shorter one.

    Raises:
        InputError: if more than one is asked for, and there is none besides ``size``.
    """
    if count == 1:
        return (size,)
    area = size.height * size.width
    pairs = [(side, area // side // step * step) for side in range(step, area // step + 1, step)]
    candidates = [Size(*pair) for pair in pairs] + [Size(*pair[::-1]) for pair in pairs]
    others = {
        _aspect(one): one for one in candidates if max(one) <= longest * min(one) and _aspect(one) != _aspect(size)
    }
    if not others:
        raise InputError(
            f"data.buckets is {count}, but with sides that are multiples of data.bucket_step={step} and at most "
            f"data.bucket_ratio={longest:g} to 1 there is no shape besides {size.setting}: make one of them finer"
        )
    chosen = [size]
    wanted = np.linspace(-log(longest), log(longest), count)
    for aspect in np.delete(wanted, np.argmin(np.abs(wanted - _aspect(size)))):
        left = [one for one in others.values() if one not in chosen]
        chosen += [min(left, key=lambda one: abs(_aspect(one) - aspect))] if left else []
    return tuple(sorted(chosen, key=_aspect))


def nearest(size: Size, buckets: Sequence[Size]) -> Size:
    """The bucket whose aspect ratio is nearest to a photo's: of which least is cut off."""
    return min(buckets, key=lambda bucket: abs(_aspect(bucket) - _aspect(size)))


def _aspect(size: Size) -> float:
    """Logarithm of width over height, so that tall and wide are alike."""
    return log(size.width / size.height)
