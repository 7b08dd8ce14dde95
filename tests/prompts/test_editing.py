# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A1111's rules of prompt editing: the examples of its own documentation, and laws."""

import re
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreambooth_jax.errors import InputError
from dreambooth_jax.prompts import editing
from dreambooth_jax.prompts.editing import timeline
from dreambooth_jax.prompts.limits import LONGEST

SIGNS = st.text(st.sampled_from("ab :|[]().\\12-"), max_size=40)


def stretches(prompt: str, steps: int = 10) -> list[list]:
    """[last step, text] of each stretch."""
    texts, index = timeline(prompt, steps)
    assert len(index) == steps
    assert sorted(set(index)) == list(range(len(texts)))
    assert len(set(texts)) == len(texts)
    ends = [step for step in range(1, steps + 1) if step == steps or index[step] != index[step - 1]]
    return [[end, texts[index[end - 1]]] for end in ends]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("test", [[10, "test"]]),
        ("a [b:3]", [[3, "a "], [10, "a b"]]),
        ("a [b: 3]", [[3, "a "], [10, "a b"]]),
        ("a [[[b]]:2]", [[2, "a "], [10, "a [[b]]"]]),
        ("[(a:2):3]", [[3, ""], [10, "(a:2)"]]),
        ("a [b : c : 1] d", [[1, "a b  d"], [10, "a  c  d"]]),
        ("a[b:[c:d:2]:1]e", [[1, "abe"], [2, "ace"], [10, "ade"]]),
        ("a [unbalanced", [[10, "a [unbalanced"]]),
        ("a [b:.5] c", [[5, "a  c"], [10, "a b c"]]),
        ("a [b::.5] c", [[5, "a b c"], [10, "a  c"]]),
        ("a [:b:.5] c", [[5, "a  c"], [10, "a b c"]]),
        ("((a][:b:c [d:3]", [[3, "((a][:b:c "], [10, "((a][:b:c d"]]),
        ("[a|(b:1.1)]", [[n, "(b:1.1)" if n % 2 == 0 else "a"] for n in range(1, 11)]),
        ("[fe|]male", [[n, "male" if n % 2 == 0 else "female"] for n in range(1, 11)]),
        (
            "[fe|||]male",
            [[1, "female"], [4, "male"], [5, "female"], [8, "male"], [9, "female"], [10, "male"]],
        ),
        ("[a:b:1.0]", [[10, "a"]]),
        ("[a:b:0]", [[10, "b"]]),
        ("[a:b:-3]", [[10, "b"]]),
        ("[a:b:99999999999999999999]", [[10, "a"]]),
        ("[a:b:0.39]", [[3, "a"], [10, "b"]]),
    ],
)
def test_texts_are_those_of_a1111(prompt, expected):
    assert stretches(prompt) == expected


def test_what_follows_a_backslash_is_no_sign():
    assert stretches(r"\[a:b:5]") == [[10, r"\[a:b:5]"]]
    assert stretches(r"[a\:b:5]") == [[5, ""], [10, r"a\:b"]]
    assert stretches(r"[a\|b|c]", 2) == [[1, r"a\|b"], [2, "c"]]


def test_the_example_of_the_manual():
    prompt = (
        "fantasy landscape with a [mountain:lake:0.25] and [an oak:a christmas tree:0.75][ in foreground::0.6]"
        "[: in background:0.25] [shoddy:masterful:0.5]"
    )
    assert stretches(prompt, 100) == [
        [25, "fantasy landscape with a mountain and an oak in foreground shoddy"],
        [50, "fantasy landscape with a lake and an oak in foreground in background shoddy"],
        [60, "fantasy landscape with a lake and an oak in foreground in background masterful"],
        [75, "fantasy landscape with a lake and an oak in background masterful"],
        [100, "fantasy landscape with a lake and a christmas tree in background masterful"],
    ]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a [b:.5] c", [[10, "a b c"]]),
        ("a [b:1.5] c", [[5, "a  c"], [10, "a b c"]]),
        ("a [b:23] c", [[3, "a  c"], [10, "a b c"]]),
        ("a [b:3] c", [[10, "a b c"]]),
    ],
)
def test_a_second_pass_goes_on_where_the_first_ended(prompt, expected):
    texts, of_step = timeline(prompt, 10, passed=20)
    assert [texts[number] for number in of_step] == [
        next(text for end, text in expected if step <= end) for step in range(1, 11)
    ]


@pytest.mark.parametrize(
    "prompt",
    [
        "a|b",
        "(a|b)",
        "[a|b:0.5]",
        "[a:b]",
        "[a:b:c]",
        "[a:b:c:3]",
        "[a (b:3]",
        "[a:(b:3]",
        "[a:b:1.2.3]",
        "[a::]",
        "[]",
    ],
)
def test_other_brackets_are_let_be(prompt):
    assert stretches(prompt) == [[10, prompt]]


@given(st.integers(1, 30), st.integers(0, 40))
def test_a_number_is_one_of_steps_and_a_fraction_one_of_the_run(steps, when):
    number = [timeline(f"[a:b:{when}]", steps).texts[i] for i in timeline(f"[a:b:{when}]", steps).of_step]
    assert number == ["a"] * min(when, steps) + ["b"] * (steps - min(when, steps))
    texts, index = timeline(f"[a:b:{when / steps!r}]", steps)
    before = sum(texts[i] == "a" for i in index)
    assert before in {min(when, steps), min(when, steps) - 1}  # rounded down
    assert before == min(int(when / steps * steps), steps)


@given(SIGNS, st.integers(1, 12))
def test_whatever_is_written_is_read(prompt, steps):
    for end, text in stretches(prompt, steps):
        assert 1 <= end <= steps
        rest = iter(prompt)
        assert all(sign in rest for sign in text)  # signs are left out, and none is moved


@given(SIGNS.filter(lambda text: not re.search(r"\[.*[:|].*\]", text)))
def test_a_prompt_without_changes_is_itself(prompt):
    assert stretches(prompt) == [[10, prompt]]


@pytest.mark.parametrize(
    "unit", ["[", "[a:", "(", "[a|", "|", ":", "\\", "[a:b:0.5]", "[a|b]", "a", "[(", "]", ":1]", "[" * 99 + ":1]" * 99]
)
def test_long_prompts_take_no_long_time(unit):
    start = time.process_time()
    with suppress(InputError):
        timeline(unit * (LONGEST // len(unit)), 100)
    assert time.process_time() - start < 3


def test_too_many_texts_are_refused():
    prompt = "".join(f"[{'|' * (n - 1)}a]" for n in (7, 11, 13))
    assert len(timeline(prompt, 50).of_step) == 50
    with pytest.raises(InputError, match=rf"^a prompt is {editing.MOST_TEXTS + 1} different texts or more"):
        timeline(prompt, 1000)
    with pytest.raises(InputError, match="characters"):
        timeline("a" * (LONGEST + 1), 10)
