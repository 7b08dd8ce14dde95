# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import jax
import pytest

from dreambooth_jax.config import Config, keys, load_config
from dreambooth_jax.members import Member, groups
from dreambooth_jax.members.grouping import DATA
from dreambooth_jax.prepare.model import describe_model
from dreambooth_jax.target import Target
from dreambooth_jax.train_setup import build_train_setup
from dreambooth_jax.train_setup.members import build_member_setup
from dreambooth_jax.training.optimizer_kinds import KINDS
from dreambooth_jax.training.parallel import make_mapper
from tests.runs import MODEL

LORA = ["model.path=model", "data.class_noun=dog", "adapter.kind=lora", "optimizer.learning_rate=1e-4"]
TARGET = Target.of(jax.devices()[:1])


def members(*own: list[str], base=LORA) -> list[Member]:
    return [
        Member(name=str(n), config=load_config(None, [*base, f"run_dir=runs/{n}", *one])) for n, one in enumerate(own)
    ]


def names(found) -> list[list[str]]:
    return [[member.name for member in group] for group in found]


@pytest.mark.parametrize(
    "own",
    [
        ["optimizer.learning_rate=3e-4", "optimizer.schedule=cosine", "optimizer.warmup_steps=10"],
        ["train.steps=900", "train.seed=2"],
        ["prior.weight=0.5", "prior.class_prompt=a dog", "prior.num_images=10", "prior.guidance_scale=3"],
        [
            "data.instance_images=photos/cat",
            "data.class_noun=cat",
            "data.identifier=zwx",
            "data.templates=a {identifier}",
        ],
        ["samples.prompts=a {identifier} on the beach"],
        ["text_encoder.stop=-1", "text_encoder.start=90"],
    ],
)
def test_data_shares_a_program(own):
    base = ["text_encoder.stop=300"] if own[0].startswith("text_encoder") else []
    assert names(groups(members(base, own))) == [["0", "1"]]


@pytest.mark.parametrize(
    "own",
    [
        ["adapter.rank=4"],
        ["adapter.targets=attn-only"],
        ["adapter.dora=input"],
        ["optimizer.kind=lion"],
        ["optimizer.weight_decay=0"],
        ["data.resolution=256"],
        ["data.masks=alpha"],
        ["train.batch_size=2"],
        ["train.dtype=float32"],
        ["model.path=other"],
        ["text_encoder.stop=-1"],
        ["objective.loss=huber"],
        ["prior.weight=0"],
        ["validation.holdout=1"],
        ["samples.every=7"],
    ],
)
def test_what_changes_shapes_or_the_program_is_apart(own):
    assert names(groups(members([], own))) == [["0"], ["1"]]


def test_full_fine_tuning_has_a_copy_of_the_weights_each():
    assert names(groups(members([], [], base=LORA[:2]))) == [["0"], ["1"]]


def test_groups_keep_the_order_of_their_first_members():
    ranks = members(["adapter.rank=4"], ["adapter.rank=8"], ["adapter.rank=4", "train.seed=1"])
    assert names(groups(ranks)) == [["0", "2"], ["1"]]
    assert names(groups(ranks[::-1])) == [["2", "0"], ["1"]]


@pytest.mark.parametrize(
    ("settings", "shared"),
    [
        ([], (True, True, True)),
        (["adapter.dropout=0.1"], (True, True, False)),
        (["optimizer.kind=schedule_free_adamw"], (True, False, False)),
        (["optimizer.kind=ademamix"], (False, True, False)),
        (["optimizer.kind=prodigy"], (False, False, False)),
        (["optimizer.kind=dadapt_adamw"], (False, False, False)),
    ],
)
def test_optimizers_with_a_use_for_rates_or_steps_and_dropout_share_less(settings, shared):
    """They differ in steps, in rates, in the stretch of the text encoder; in seeds any may."""
    base = [*LORA, *settings, "text_encoder.stop=300"]
    for own, is_shared in zip(["train.steps=900", "optimizer.learning_rate=1e-3", "text_encoder.stop=-1"], shared):
        assert names(groups(members([], ["train.seed=1"], [own], base=base))) == (
            [["0", "1", "2"]] if is_shared else [["0", "1"], ["2"]]
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own", ["train.steps=9", "text_encoder.learning_rate=0.5", "text_encoder.stop=3"])
def test_who_shares_a_program_has_a_step(kind, own):
    """Whatever their optimizer has a use for."""
    tiny = [
        f"model.path={MODEL}",
        "adapter.rank=2",
        "adapter.targets=attn-only",
        "text_encoder.stop=5",
        "train.steps=6",
    ]
    settings = [*LORA, *tiny, f"optimizer.kind={kind}", "optimizer.learning_rate=1", "data.resolution=16"]
    for group in groups(members([], [own], base=settings)):
        configs = [member.config for member in group]
        pipe = describe_model(configs[0], TARGET)
        setups = [build_train_setup(config, pipe, make_mapper("auto", TARGET)) for config in configs]
        assert len(build_member_setup(configs, setups).inputs.steps) == len(group)


def test_every_key_of_data_is_a_setting():
    assert set(keys(Config)) >= DATA
