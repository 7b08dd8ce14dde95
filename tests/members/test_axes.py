# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreambooth_jax.errors import InputError
from dreambooth_jax.members.axes import Axis, Choice, split_values, take_axes
from dreambooth_jax.members.expand import expand
from dreambooth_jax.members.naming import names_of

BASE = ["--model.path=model", "--data.class_noun=dog", "--data.instance_images=photos"]


def swept(*options: str):
    others, axes = take_axes([*BASE, *options])
    return expand(others, axes, folder=Path("runs/sweep"), within="members")


def values_of(option: str) -> list[str]:
    _, (axis,) = take_axes([option])
    return [choice.text for choice in axis.choices]


def test_all_combinations_are_members_with_a_folder_each():
    members, cells = swept("--optimizer.learning_rate=1e-6,3e-6", "--train.steps=600,900", "--train.seed=0,1,2")
    assert len(members) == 12
    assert {(m.config.optimizer.learning_rate, m.config.train.steps, m.config.train.seed) for m in members} == {
        (rate, steps, seed) for rate in (1e-6, 3e-6) for steps in (600, 900) for seed in (0, 1, 2)
    }
    assert members[0].name == "learning_rate-1e-6_steps-600_seed-0"
    assert members[0].config.run_dir == f"runs/sweep/members/{members[0].name}"
    assert len({member.config.run_dir for member in members}) == 12
    assert cells[5].place == (0, 1, 2)
    assert cells[5].labels == ("learning_rate=1e-6", "steps=900", "seed=2")


def test_names_do_not_depend_on_how_numbers_are_written_nor_on_other_values():
    (one, two), _ = swept("--optimizer.learning_rate=0.000001,3e-6")
    (_, same, _), _ = swept("--optimizer.learning_rate=1e-5,1.0e-06,2")
    assert one.name == same.name == "learning_rate-1e-6"
    assert two.name == "learning_rate-3e-6"


@pytest.mark.parametrize("key", ["prior.class_prompt", "data.identifier"])
def test_a_name_stays_what_it_is_whatever_is_added(key):
    texts = ["a b", "a-b", "a  b!", "A-b", "A B", "(a b)", "\N{DOG FACE}"]
    named = {member.name: member.config for member in swept(f"--{key}={';'.join(texts)}")[0]}
    assert len({name.lower() for name in named}) == len(texts)
    for some in permutations(texts, 2):
        assert {member.name for member in swept(f"--{key}={';'.join(some)}")[0]} < named.keys()
    assert f"{key.rpartition('.')[2]}-a-b" in named


def test_words_that_would_have_one_folder_are_refused():
    """Else the one that was there first would have another folder when the other is added."""
    axis = Axis("subject", tuple(Choice(name, (f"data.identifier={name}",)) for name in ("a-b", "dog", "a b")))
    with pytest.raises(InputError, match="^subject: 'a-b' and 'a b' would have one folder: call one otherwise$"):
        names_of([axis], [[choice] for choice in axis.choices])


def test_names_differ_where_words_alone_would_not():
    _, axes = take_axes(["--prior.class_prompt=a cat!,a cat?,A Cat"])
    names = names_of(axes, [[choice] for choice in axes[0].choices])
    assert len({name.lower() for name in names}) == 3
    _, axes = take_axes(["--optimizer.learning_rate=1,2", "--text_encoder.learning_rate=1,2"])
    assert names_of(axes, [[axes[0].choices[0], axes[1].choices[1]]]) == [
        "optimizer.learning_rate-1_text_encoder.learning_rate-2"
    ]


def test_names_begin_with_a_letter_a_digit_or_what_they_were_given():
    """None with a dash, which a command line would take for an option; also where pictures alone are varied."""
    assert names_of([], [[]]) == ["run"]
    _, axes = take_axes(["--prior.weight=-1,0.5", '--prior.class_prompt="!","a cat"'])
    told = names_of(axes, [[one, other] for one in axes[0].choices for other in axes[1].choices])
    word = Axis("experiment", (Choice("-", ("train.seed=1",)), Choice("--x", ("train.seed=2",))))
    told += names_of([word], [[choice] for choice in word.choices])
    assert len(set(told)) == 6
    assert all(name[0].isalnum() for name in told), told


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--train.steps=600,900", ["600", "900"]),
        ("--prior.class_prompt=a cat, sitting; a cat", ["a cat, sitting", "a cat"]),
        ('--prior.class_prompt="a cat, sitting","a cat; two"', ["a cat, sitting", "a cat; two"]),
        ("--adapter.targets=[attn-only],[attn-mlp, conv_in]", ["[attn-only]", "[attn-mlp, conv_in]"]),
        ("--optimizer.clip_norm=1.0,null", ["1.0", "null"]),
        ("--data.flip=true,false", ["true", "false"]),
        ("--data.concepts.0.weight=0.5,1", ["0.5", "1"]),
    ],
)
def test_values_of_a_setting(option, values):
    assert values_of(option) == values


@pytest.mark.parametrize(
    "option",
    [
        "--adapter.targets=[attn-only, attn-mlp]",
        "--samples.prompts=a dog, sitting; a dog",
        "--data.concepts=[{identifier: a, weight: 1}, {identifier: b}]",
        "--engine=ray,slurm",
        "--optimizer.no_decay=[.*/a{1,2}]",
    ],
)
def test_a_value_that_is_a_list_by_itself_stays_one(option):
    assert take_axes([option]) == ([option], [])


@given(st.lists(st.text("ab ;,", min_size=1).filter(str.strip), min_size=2, max_size=5))
def test_quoted_values_come_back(values):
    assert split_values(",".join(f'"{value}"' for value in values)) == values


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--run_dir=a,b"], "run_dir has 2 values, but all members of a set are in one folder: give one"),
        (["--data.subjects=a,b"], "data.subjects has 2 values"),
        (["--train.steps=600,"], "train.steps has an empty value"),
        (["--train.steps=,"], "train.steps has an empty value"),
        (["--optimizer.learning_rate=1e-6,0.000001"], "optimizer.learning_rate has 1e-6 twice"),
        (["--train.stepz=1,2"], "unknown key train.stepz; did you mean train.steps?"),
        (["--train.steps=1,many"], "steps-many: train.steps must be a whole number"),
        (["--train.steps=1,0"], "steps-0: train.steps is 0"),
        (["--train.seed=0,1", "--train.seed=2,3"], "train.seed is varied twice"),
        (["--train.seed=" + ",".join(map(str, range(40))), "--train.steps=" + ",".join(map(str, range(40)))], "1600"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(options, message):
    with pytest.raises(InputError) as error:
        swept(*options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
