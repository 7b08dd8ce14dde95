# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What of a run's own samples counts, beside what the command line tells."""

from types import SimpleNamespace

import pytest

from dreambooth_jax.cli.sample import sampling_of
from dreambooth_jax.config import load_config
from dreambooth_jax.options import SampleOptions


@pytest.mark.parametrize(
    ("of_run", "told", "sampler", "schedule"),
    [
        (["samples.sampler=heun", "samples.schedule=beta"], {}, "heun", "beta"),
        ([], {"sampler": "DPM++ 2M Karras"}, "dpmpp_2m", "karras"),
        (["samples.schedule=beta"], {"sampler": "DPM++ 2M Karras"}, "dpmpp_2m", "karras"),
        (["samples.schedule=beta"], {"sampler": "euler"}, "euler", "beta"),
        (["samples.schedule=beta"], {"schedule": "model"}, "ddim", "model"),
    ],
)
def test_a_schedule_in_the_samplers_name_is_told(of_run, told, sampler, schedule):
    config = load_config(None, ["data.class_noun=dog", *of_run])
    options = SampleOptions(source="run", **told)
    found = sampling_of(options, tuple(told), SimpleNamespace(config=config))
    assert (found.sampler, found.schedule) == (sampler, schedule)
