# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import copy
import os
import re
import signal

import pytest

from dreambooth_jax.config import Config, TextEncoderConfig, keys, load_config, to_dict
from dreambooth_jax.config.setting import resumable_keys
from dreambooth_jax.errors import InputError
from dreambooth_jax.training.interrupt import Interrupt
from dreambooth_jax.training.loop import split_phases
from dreambooth_jax.training.resume import changed_keys, check_same_run

BASE = to_dict(load_config())


@pytest.mark.parametrize(
    "override",
    [
        "run_dir=x",
        "train.parallel=fsdp",
        "train.steps=900",
        "samples.every=7",
        "checkpoint.every=3",
        "export.format=flax",
        "samples.sampler=ddpm",
        "data.instance_images=moved",  # the pictures are known by their fingerprint
    ],
)
def test_harmless_changes_are_free(override):
    assert changed_keys(BASE, to_dict(load_config(None, [override]))) == []


@pytest.mark.parametrize(
    "override",
    ["optimizer.learning_rate=1e-5", "prior.weight=0.5", "data.flip=true", "train.seed=4", "text_encoder.stop=5"],
)
def test_changes_of_the_result_are_named(override):
    key = override.split("=")[0]
    assert changed_keys(BASE, to_dict(load_config(None, [override]))) == [key]


@pytest.mark.parametrize("key", sorted(set(keys()) - set(resumable_keys(Config)) - {"train.steps"}))
def test_a_setting_that_an_older_checkpoint_does_not_know_had_its_default(key):
    """As it is for every setting that comes later."""
    old = copy.deepcopy(BASE)
    group, _, name = key.partition(".")
    default = old[group].pop(name)
    assert changed_keys(old, BASE) == []
    other = copy.deepcopy(BASE)
    other[group][name] = 7
    assert changed_keys(old, other) == [key]
    meta = {"step": 4, "config": old, "fingerprints": {}}
    with pytest.raises(InputError, match=re.escape(f"{key} was {default!r} and is 7")):
        check_same_run(meta, config=other, fingerprints={})


def test_a_setting_of_a_later_version_is_named():
    later = copy.deepcopy(BASE)
    later["train"]["of_tomorrow"] = 3
    assert changed_keys(later, BASE) == ["train.of_tomorrow"]


@pytest.mark.parametrize("measured_by_steps", ["optimizer.schedule=cosine", "text_encoder.stop=-1"])
def test_more_steps_are_another_run_where_something_is_measured_by_them(measured_by_steps):
    old = to_dict(load_config(None, [measured_by_steps]))
    new = to_dict(load_config(None, [measured_by_steps, "train.steps=900"]))
    assert changed_keys(old, new) == ["train.steps"]


def test_the_refusal_names_keys_values_and_pictures():
    meta = {"step": 4, "config": BASE, "fingerprints": {"model": "a", "instance": "b", "prior": "c"}}
    new = to_dict(load_config(None, ["train.seed=1"]))
    check_same_run(meta, config=BASE, fingerprints={"model": "a", "instance": "b"})
    with pytest.raises(
        InputError, match=r"step 4: train.seed was 0 and is 1; the instance images, .* changed"
    ) as error:
        check_same_run(meta, config=new, fingerprints={"model": "a", "instance": "x"})
    assert "\n" not in str(error.value)


def test_signals_set_a_flag_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        assert not interrupt.requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.requested()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_second_ctrl_c_interrupts_at_once():
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.requested()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (0, 0, [(0, 10, 1)]),
        (0, -1, [(0, 10, 2)]),
        (0, 4, [(0, 4, 2), (4, 10, 1)]),
        (7, -1, [(0, 7, 1), (7, 10, 2)]),
        (2, 5, [(0, 2, 1), (2, 5, 2), (5, 10, 1)]),
        (2, 50, [(0, 2, 1), (2, 10, 2)]),
    ],
)
def test_phases_cover_the_run_once(start, stop, expected):
    text_encoder = TextEncoderConfig(start=start, stop=stop).stretch(10)
    phases = split_phases(steps=10, stretches={"unet": [(0, 10)], "text_encoder": [text_encoder]})
    assert [(phase.start, phase.stop, len(phase.active)) for phase in phases] == expected


def test_phases_of_several_runs_have_what_one_of_them_trains():
    phases = split_phases(steps=9, stretches={"unet": [(0, 5), (0, 9)], "text_encoder": [(0, 3), (2, 4), (7, 9)]})
    assert [(phase.start, phase.stop, len(phase.active)) for phase in phases] == [(0, 4, 2), (4, 7, 1), (7, 9, 2)]
