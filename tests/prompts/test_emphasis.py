# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A1111's rules of emphasis: the examples of its own documentation, and laws."""

import re
import time
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreambooth_jax.errors import InputError
from dreambooth_jax.prompts.emphasis import LARGEST_WEIGHT, Part, sections
from dreambooth_jax.prompts.limits import LONGEST

SIGNS = st.text(st.sampled_from("ab ,:|().[]\\1.2-+BREAK\n{}_"), max_size=60)


def weighted(prompt: str) -> list[tuple[str, float]]:
    (section,) = sections(prompt)
    return [tuple(part) for part in section]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        ),
        ("", [("", 1.0)]),
        ("a [dog]", [("a ", 1.0), ("dog", 1 / 1.1)]),
        ("(a : 1.5 )", [("a ", 1.5)]),
        ("(a:-.5)", [("a", -0.5)]),
        ("a) b] c:1", [("a) b] c:1", 1.0)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),  # A1111 fails
        ("(a:)", [("a:", 1.1)]),
        ("a:1.5) b", [("a:1.5) b", 1.0)]),
        (r"a\b \\ c", [("ab \\ c", 1.0)]),
    ],
)
def test_weights_are_those_of_a1111(prompt, expected):
    found = weighted(prompt)
    assert [text for text, _ in found] == [text for text, _ in expected]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in expected], rel=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 7, 40])
def test_nested_weights_multiply(depth):
    assert weighted("(" * depth + "x" + ")" * depth) == [("x", pytest.approx(1.1**depth))]
    assert weighted("[" * depth + "x" + "]" * depth) == [("x", pytest.approx(1.1**-depth))]
    assert weighted("([" * depth + "x" + "])" * depth) == [("x", pytest.approx(1.0))]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat BREAK a dog", [["a cat"], ["a dog"]]),
        ("a cat\n BREAK \n a dog", [["a cat"], ["a dog"]]),
        ("BREAK a BREAK BREAK b BREAK", [[""], ["a"], [""], ["b"], [""]]),
        ("BREAKFAST, a BREAK_ and outBREAK", [["BREAKFAST, a BREAK_ and outBREAK"]]),
    ],
)
def test_break_divides(prompt, expected):
    assert [[part.text for part in section] for section in sections(prompt)] == expected


def test_break_divides_within_brackets_too():
    """A1111 multiplies its marker's weight there, and the word itself is drawn."""
    assert sections("(a BREAK b:1.5) c") == [[Part("a", 1.5)], [Part("b", 1.5), Part(" c", 1.0)]]


@given(st.text(max_size=80))
def test_escaped_text_is_itself(text):
    text = re.sub(r"\bBREAK\b", "", text).replace("BREAK", "")
    escaped = re.sub(r"([()\[\]\\])", r"\\\1", text)
    assert weighted(escaped) == [(text, 1.0)]


@given(SIGNS)
def test_whatever_is_written_is_read(prompt):
    found = sections(prompt)
    assert all(section for section in found)
    letters = "".join(part.text for section in found for part in section)
    assert set(letters) <= set(prompt)
    assert letters.count("a") == prompt.count("a")
    for section in found:
        assert all(one.weight != two.weight for one, two in pairwise(section))


@pytest.mark.parametrize(
    "unit", ["(", "[", "(a", "[a:", ":1", "\\", "BREAK ", " ", ": ", "9", ":9", "(a:0.5)", "([", ")"]
)
def test_long_prompts_take_no_long_time(unit):
    prompt = unit * (LONGEST // len(unit))
    start = time.process_time()
    with suppress(InputError):
        sections(prompt)
    assert time.process_time() - start < 2


def test_more_is_refused_in_one_line():
    with pytest.raises(InputError, match=r"^a prompt has 100000000 characters, of which 50000 may be") as caught:
        sections("(" * 10**8)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("prompt", ["(x:1000)", "(x:-1e3)", "(" * 49 + "x", "(x:" + "9" * 400 + ")", "(" * 30000 + "x"])
def test_no_weight_is_beyond_all_sense(prompt):
    if "e" in prompt:  # no number
        assert weighted(prompt) == [("x:-1e3", 1.1)]
        return
    with pytest.raises(InputError, match=rf"^a prompt has a word of weight .*: weights go up to {LARGEST_WEIGHT:g}$"):
        sections(prompt)
