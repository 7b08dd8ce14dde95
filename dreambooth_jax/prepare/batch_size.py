# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How many pictures to make or to encode at once."""

from collections.abc import Callable, Sequence

from dreambooth_jax.config import PriorConfig, SamplingConfig
from dreambooth_jax.memory import Usage, bytes_per_device, usage_of, used
from dreambooth_jax.pipeline import Control, Pipeline
from dreambooth_jax.size import Size
from dreambooth_jax.target import Target

CPU_BATCH = 4
LARGEST_BATCH = 16
"""Class images at once on each device; with guidance the network sees twice as many, which keeps any device busy."""
ROOM_TO_USE = 0.9
"""Of a device's memory; the rest is lost between blocks."""


def class_batch(
    pipe: Pipeline,
    *,
    prior: PriorConfig,
    size: Size,
    room: int | None,
    missing: int,
    usage_at: Callable[[int], Usage] | None = None,
) -> int:
    """Class images to make at once on each device.

    Args:
        pipe: the frozen model.
        prior: a number that is set there is taken.
        size: of a picture, where ``prior`` sets none.
        room: bytes of each device for the model and the work.
        missing: pictures to make, over all devices of this process.
        usage_at: the sampler's memory at so many pictures on each device; by default it is compiled.
    """
    if prior.batch_size is not None:
        return prior.batch_size
    if room is None or pipe.target.arch.platform == "cpu":
        return CPU_BATCH  # its cores are busy with one already
    n = len(pipe.target.local)

    def compiled(batch: int) -> Usage:
        return usage_of(pipe.lower(batch * n, sampling=prior.sampling(size=size)))

    return largest_batch(usage_at or compiled, room=room, most=-(-min(LARGEST_BATCH * n, missing) // n))


def largest_batch(usage_at: Callable[[int], Usage], *, room: int, most: int) -> int:
    """The largest power of two of pictures whose sampler fits, at least 1.

    It starts at the largest, so that where this fits nothing is compiled that is not used. Where it does not, memory
    of one picture, which is overestimated by a share of what all have in common, says where to look next.

    Args:
        usage_at: the sampler's memory at so many pictures.
        room: bytes of each device for the model and the work.
        most: the result is the first power of two that is no less, or a smaller one.
    """
    batch = 1 << max(most - 1, 0).bit_length()
    while batch > 1:
        usage = usage_at(batch)
        if usage.peak <= ROOM_TO_USE * room:
            break
        each = (usage.temporaries + usage.results) / batch
        fitting = int(max(ROOM_TO_USE * room - usage.arguments, 0) / each)
        batch = min(batch // 2, 1 << max(fitting.bit_length() - 1, 0))
    return batch


def encoded_at_once(target: Target) -> int:
    """Views in one batch. On a CPU one for each device: more are no faster there, and each that fills up the last batch
    costs as much as a photo. On accelerators four: they cost little, and one size for all is one program to compile."""
    return len(target.local) * (1 if target.arch.platform == "cpu" else 4)


def pictures_at_once(pipe: Pipeline, sampling: SamplingConfig, *, count: int, control: Sequence[Control] = ()) -> int:
    """Pictures to sample at once on all local devices together, when nothing else is to be held in memory.

    Args:
        pipe: the model; its parameters lie on the devices.
        sampling: with the size of the pictures.
        count: pictures to make.
        control: what guides them.
    """
    n, device, room = len(pipe.target.local), pipe.target.local[0], pipe.target.memory
    if room is None or pipe.target.arch.platform == "cpu":
        return min(count, int(CPU_BATCH * n))
    room = room - used(device) + bytes_per_device(pipe.params)

    def compiled(batch: int) -> Usage:
        return usage_of(pipe.lower(batch * n, sampling=sampling, control=control))

    return n * largest_batch(compiled, room=room, most=-(-min(LARGEST_BATCH * n, count) // n))
