# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How many class images are made at once."""

from types import SimpleNamespace
from unittest.mock import Mock

import jax
import pytest

from dreambooth_jax.config import PriorConfig
from dreambooth_jax.memory import Usage
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.prepare.batch_size import CPU_BATCH, LARGEST_BATCH, ROOM_TO_USE, class_batch, largest_batch
from dreambooth_jax.size import Size
from dreambooth_jax.target import Target

MODEL, COMMON, EACH = 1000, 300, 100


class Sampler:
    """Needs so much for all pictures together, and so much for each."""

    def __init__(self):
        self.compiled = []

    def __call__(self, batch):
        self.compiled.append(batch)
        return Usage(arguments=MODEL, results=batch, temporaries=COMMON + (EACH - 1) * batch)


class Compiler(Pipeline):
    """Stands for a pipeline with such a sampler."""

    def __init__(self, devices=None):
        self.__dict__.update(target=Target.of(devices or jax.devices()))

    def lower(self, count, *, sampling):
        share, rest = divmod(count, len(self.target.local))
        assert rest == 0
        usage = Sampler()(share)
        stats = SimpleNamespace(
            argument_size_in_bytes=usage.arguments,
            output_size_in_bytes=usage.results,
            alias_size_in_bytes=0,
            temp_size_in_bytes=usage.temporaries,
        )
        return SimpleNamespace(compile=lambda compiler_options: SimpleNamespace(memory_analysis=lambda: stats))


@pytest.mark.parametrize("room", [0, 500, 1200, 1555, 1700, 2000, 2500, 3400, 10000])
def test_what_is_chosen_fits_and_no_more_is_compiled_than_it_takes(room):
    sampler = Sampler()
    batch = largest_batch(sampler, room=room, most=125)
    assert batch & (batch - 1) == 0
    assert batch == 1 or MODEL + COMMON + EACH * batch <= ROOM_TO_USE * room
    twice = MODEL + COMMON + EACH * 2 * batch
    # what all have in common is taken for a part of each, which may cost a factor of two
    assert batch == 128 or twice > ROOM_TO_USE * room or twice * 2 > ROOM_TO_USE * room
    assert len(sampler.compiled) <= 3
    assert sampler.compiled[-1] == batch or batch == 1


@pytest.mark.parametrize(("most", "batch"), [(1, 1), (2, 2), (3, 4), (25, 32)])
def test_no_more_than_are_wanted(most, batch):
    sampler = Sampler()
    assert largest_batch(sampler, room=10**9, most=most) == batch
    assert sampler.compiled == ([batch] if batch > 1 else [])


def test_a_number_that_was_set_is_taken_and_a_cpu_has_one():
    options = {"size": Size(64, 64), "room": 10**9, "missing": 200}
    assert class_batch(Compiler(), prior=PriorConfig(batch_size=7), **options) == 7
    assert class_batch(Compiler(), prior=PriorConfig(), **options) == CPU_BATCH


def test_on_an_accelerator_it_is_found():
    devices = [Mock(spec=jax.Device, platform="gpu", process_index=0, id=i) for i in range(2)]
    for missing, batch in ((200, LARGEST_BATCH), (5, 4)):
        pipe = Compiler(devices)
        options = {"prior": PriorConfig(), "size": Size(64, 64), "room": 10**9, "missing": missing}
        sampler = Sampler()
        assert class_batch(pipe, **options) == class_batch(pipe, **options, usage_at=sampler) == batch
        assert sampler.compiled == [batch]
