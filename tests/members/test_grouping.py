# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import pytest

from dreambooth_jax.config import Config, keys, load_config
from dreambooth_jax.members import Member, groups
from dreambooth_jax.members.grouping import DATA

LORA = ["model.path=model", "data.class_noun=dog", "adapter.kind=lora", "optimizer.learning_rate=1e-4"]


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
    ],
)
def test_data_shares_a_program(own):
    assert names(groups(members([], own))) == [["0", "1"]]


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


def test_optimizers_that_measure_by_rates_or_steps_share_less():
    free = ["optimizer.kind=schedule_free_adamw"]
    assert len(groups(members([], ["train.seed=1"], ["optimizer.learning_rate=1e-3"], base=[*LORA, *free]))) == 2
    measured = ["optimizer.kind=ademamix"]
    assert len(groups(members([], ["train.seed=1"], ["train.steps=9"], base=[*LORA, *measured]))) == 2


def test_every_key_of_data_is_a_setting():
    assert set(keys(Config)) >= DATA
