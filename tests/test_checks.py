# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import pytest

from dreambooth_jax.checks import check_config, doubts
from dreambooth_jax.config import load_config
from dreambooth_jax.errors import InputError

GOOD = ["data.class_noun=dog"]


def test_the_defaults_need_a_class_noun_and_nothing_else():
    check_config(load_config(None, GOOD))
    check_config(load_config(None, ["prior.weight=0", "data.instance_prompt=a {identifier}", "samples.prompts=[]"]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps=0", "train.steps is 0, but must be at least 1"),
        ("train.ema_decay=1", "train.ema_decay is 1"),
        ("optimizer.learning_rate=-1e-6", "optimizer.learning_rate is -1e-06"),
        ("optimizer.learning_rate=.nan", "optimizer.learning_rate is nan"),
        ("optimizer.clip_norm=0", "null does not clip"),
        ("optimizer.beta2=1", "optimizer.beta2 is 1"),
        ("prior.weight=-1", "prior.weight is -1"),
        ("data.resolution=500", "multiple of 8"),
        ("data.resolution=512x500", "multiple of 8"),
        ("data.resolution=1000000", "at most 4096"),
        ("data.resolution=512*768", "a number for a square, or width x height; such as"),
        ("data.identifier=", "data.identifier is empty"),
        ("data.class_noun=", "data.class_noun is empty"),
        ("prior.class_prompt=a {noun}", r"unknown field \{noun\}"),
        ("samples.class_prompts=['a {klass}']", r"unknown field \{klass\}"),
        ("text_encoder.stop=-2", "text_encoder.stop is -2"),
    ],
)
def test_each_problem_is_one_line_that_names_the_key(override, message):
    with pytest.raises(InputError, match=message) as error:
        check_config(load_config(None, [*GOOD, override]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("start", "stop", "fine"), [(0, -1, True), (5, 10, True), (10, 10, False), (800, -1, False), (900, 950, False)]
)
def test_the_text_encoders_stretch_must_be_one(start, stop, fine):
    config = load_config(None, [*GOOD, f"text_encoder.start={start}", f"text_encoder.stop={stop}"])
    if fine:
        check_config(config)
    else:
        with pytest.raises(InputError, match="is not before"):
            check_config(config)


@pytest.mark.parametrize(
    ("kind", "override", "fine"),
    [
        ("adamw", "moments=bfloat16", True),
        ("lion", "moments=bfloat16", True),
        ("lion", "eps=1e-6", False),
        ("adafactor", "moments=bfloat16", False),
        ("adafactor", "beta2=0.9", False),
        ("muon", "moments=bfloat16", True),
        ("schedule_free_adamw", "moments=bfloat16", False),
        ("sgd", "eps=1e-6", False),
    ],
)
def test_an_optimizer_refuses_what_it_does_not_have(kind, override, fine):
    config = load_config(None, [*GOOD, f"optimizer.kind={kind}", f"optimizer.{override}"])
    if fine:
        check_config(config)
    else:
        with pytest.raises(InputError, match=rf"^optimizer\.\w+ is .*, but {kind} has no use for it: leave it out$"):
            check_config(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["kind=prodigy"], r"prodigy finds the rate by itself .*: set optimizer.learning_rate=1"),
        (["kind=schedule_free_adamw", "schedule=cosine"], "schedule_free_adamw needs none: leave it out"),
        (["kind=schedule_free_adamw", "beta1=0"], "must be above 0 for schedule_free_adamw"),
        (["cycles=3"], "only optimizer.schedule=cosine_restarts has cycles"),
        (["rules=unet/.* speed=3"], "'speed' is none of rate"),
    ],
)
def test_what_does_not_go_with_an_optimizer_is_refused(overrides, message):
    with pytest.raises(InputError, match=message):
        check_config(load_config(None, [*GOOD, *[f"optimizer.{one}" for one in overrides]]))


@pytest.mark.parametrize(("name", "schedule"), [("cycles", "cosine_restarts"), ("power", "polynomial")])
def test_what_a_schedule_takes_is_of_use_where_a_rule_has_it(name, schedule):
    rules = f"optimizer.rules=unet/.* schedule={schedule}"
    config = load_config(None, [*GOOD, f"optimizer.{name}=3", rules])
    check_config(config)
    assert not list(doubts(config))


def test_a_power_that_nothing_takes_is_doubted():
    """And not refused: of a sweep over schedules some have no use for it."""
    (line,) = doubts(load_config(None, [*GOOD, "optimizer.power=3"]))
    assert line == "optimizer.power is 3.0, but only optimizer.schedule=polynomial has it"


@pytest.mark.parametrize(
    ("setting", "by", "way"),
    [
        ("adapter.text_encoder_targets=attn-only", "text_encoder.stop=0", "text_encoder.stop=-1"),
        ("data.keep_tags=3", "data.tag_orders=0", "data.tag_orders=8"),
        ("data.dropout_prompt=class", "data.caption_dropout=0", "data.caption_dropout=0.1"),
        ("data.bucket_ratio=3", "data.buckets=1", "data.buckets=5"),
        ("data.unmasked_weight=0.5", "data.masks=none", "data.masks=files"),
    ],
)
def test_what_has_no_effect_is_refused(setting, by, way):
    lora = ["adapter.kind=lora", "optimizer.learning_rate=1e-4"]
    with pytest.raises(InputError, match=f"^{setting.partition('=')[0]} is .*, but {by} has no use for it: set {way}"):
        check_config(load_config(None, [*GOOD, *lora, setting]))
    check_config(load_config(None, [*GOOD, *lora, setting, way]))


@pytest.mark.parametrize(
    ("setting", "without", "way"),
    [
        ("text_encoder.learning_rate=1e-5", "text_encoder.stop=0", "text_encoder.stop=-1"),
        ("prior.num_images=5", "prior.kind=teacher", "prior.kind=pictures"),
        ("prior.class_images=dogs", "prior.kind=teacher", "prior.kind=pictures"),
    ],
)
def test_what_a_config_may_have_set_is_doubted_where_it_has_no_effect(setting, without, way):
    """As a recipe's 500 class images, after prior.kind=teacher on the command line."""
    (line,) = doubts(load_config(None, [*GOOD, setting, without]))
    assert line.startswith(f"{setting.partition('=')[0]} is ")
    assert line.endswith(f", but {without} has no use for it: set {way}, or leave it out")
    assert not [*doubts(load_config(None, [*GOOD, setting, way]))]


def test_words_that_would_learn_nothing_are_refused():
    pivotal = ["adapter.kind=pivotal", "optimizer.learning_rate=1e-4", "tokens.learning_rate=0"]
    with pytest.raises(InputError, match="tokens.learning_rate is 0, at which words learn nothing: set a rate"):
        check_config(load_config(None, [*GOOD, *pivotal]))


def test_two_averages_are_refused():
    with pytest.raises(InputError, match="averages by itself: leave it out"):
        check_config(load_config(None, [*GOOD, "optimizer.kind=schedule_free_adamw", "train.ema_decay=0.9"]))


def test_a_run_does_not_write_between_the_photos(tmp_path):
    settings = [*GOOD, f"data.instance_images={tmp_path}", f"run_dir={tmp_path / 'x' / '..'}"]
    with pytest.raises(InputError, match="is the folder of the photos: choose another"):
        check_config(load_config(None, settings))


@pytest.mark.parametrize(
    ("kind", "rate", "usual"),
    [
        ("lora", "9e-6", "0.0001"),
        ("lora", "1e-5", None),
        ("ia3", "9e-5", "0.001"),
        ("svdiff", "9e-5", "0.001"),
        ("full", "1e-7", None),
        ("custom_diffusion", "1e-5", None),
    ],
)
def test_a_rate_is_doubted_by_what_is_usual_for_the_kind(kind, rate, usual):
    said = [*doubts(load_config(None, [*GOOD, f"adapter.kind={kind}", f"optimizer.learning_rate={rate}"]))]
    assert [f"{usual} is usual" in line for line in said] == ([True] if usual else [])
