# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What of a run's own samples counts, beside what the command line tells."""

from types import SimpleNamespace

import pytest

from dreambooth_jax.cli.prompts import read_prompts
from dreambooth_jax.cli.sample import sampling_of
from dreambooth_jax.config import load_config
from dreambooth_jax.errors import InputError
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


@pytest.mark.parametrize("of_run", ["plain", "a1111"])
@pytest.mark.parametrize(("told", "expected"), [({}, "a1111"), ({"prompt_syntax": "plain"}, "plain")])
def test_prompts_of_the_command_line_are_read_as_a1111_does(of_run, told, expected):
    config = load_config(None, ["data.class_noun=dog", f"samples.prompt_syntax={of_run}"])
    options = SampleOptions(source="run", **told)
    assert sampling_of(options, tuple(told), SimpleNamespace(config=config)).prompt_syntax == expected
    assert sampling_of(options, tuple(told), SimpleNamespace(config=None)).prompt_syntax == expected
    assert config.prior.prompt_syntax == "plain"


@pytest.mark.parametrize(
    ("length", "told"),
    [
        (10**8, r"prompts\.txt has more than \d+ bytes"),
        (10**7, r"^a prompt has 10000000 characters, of which 50000 may be"),
    ],
)
def test_a_line_of_megabytes_is_refused_in_one(tmp_path, length, told):
    (tmp_path / "prompts.txt").write_text("a dog\n" + "(" * length)
    with pytest.raises(InputError, match=told) as caught:
        read_prompts(SampleOptions(source="run", prompts_file=str(tmp_path / "prompts.txt")))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
