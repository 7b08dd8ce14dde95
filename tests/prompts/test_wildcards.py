# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Prompts of which a part is drawn from the picture's seed."""

import time
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreambooth_jax.errors import InputError
from dreambooth_jax.prompts import emphasis, wildcards
from dreambooth_jax.prompts.emphasis import sections
from dreambooth_jax.prompts.limits import LONGEST
from dreambooth_jax.prompts.wildcards import draw

SIGNS = st.text(st.sampled_from("ab {}|[]\\1.:_$"), max_size=40)
SEEDS = range(300)


def all_of(prompt, **options):
    return Counter(draw(prompt, seed=seed, **options) for seed in SEEDS)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "colours.txt").write_text("# of the sprites\nred\n\n  green \nblue\n", encoding="utf-8")
    (tmp_path / "animals").mkdir()
    (tmp_path / "animals" / "wild-ones.txt").write_text("a __colours__ {fox|wolf}\n")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a {red|green|blue} dog", {"a red dog", "a green dog", "a blue dog"}),
        ("{a|b}{c|d}", {"ac", "ad", "bc", "bd"}),
        ("{a|{b|c}}", {"a", "b", "c"}),
        ("{{a|b}|c}", {"a", "b", "c"}),
        ("{red |}dog", {"red dog", "dog"}),
        ("{[a|b]|c}", {"[a|b]", "c"}),
        ("[{a|b}|c]", {"[a|c]", "[b|c]"}),
        ("({a|b}:1.3)", {"(a:1.3)", "(b:1.3)"}),
    ],
)
def test_every_option_is_drawn_and_nothing_else(prompt, expected):
    assert set(all_of(prompt)) == expected


@pytest.mark.parametrize(
    "prompt",
    ["a {red} dog", "{}", "a|b", "[a|b]", "{a", "a|b}", r"\{a|b\}", r"a \__b__", "__", "a_b", "__init", "____"],
)
def test_other_signs_are_text(prompt):
    assert set(all_of(prompt)) == {prompt}


def test_an_escaped_brace_is_a_brace():
    assert sections(draw(r"a \{b|c\}", seed=0)) == [[("a {b|c}", 1.0)]]


@given(SIGNS, st.integers(0, 2**32 - 1))
def test_in_literal_text_nothing_is_drawn(text, seed):
    literal = wildcards.literal(text)
    assert draw(literal, seed=seed) == literal
    unbroken = text.replace("\\", "").replace("BREAK", "")
    said = sections(draw(wildcards.literal(emphasis.escaped(unbroken)), seed=seed))
    assert [part.text for part in said[0]] == [unbroken]


def test_a_bar_that_is_escaped_divides_nothing():
    assert set(all_of(r"{a\|b|c}")) == {r"a\|b", "c"}


def test_the_same_seed_gives_the_same_text():
    prompt = "{a|b|c|d} {a|b|c|d} {a|b|c|d}"
    assert [draw(prompt, seed=seed) for seed in SEEDS] == [draw(prompt, seed=seed) for seed in SEEDS]
    assert len(all_of(prompt)) > 60  # of 64: each is drawn by itself
    assert draw(prompt, seed=2**64 - 1)
    negative = [draw(prompt, seed=seed, side="negative") for seed in SEEDS]
    assert sum(draw(prompt, seed=seed) == negative[seed] for seed in SEEDS) < 20


def test_weights_are_how_often():
    found = all_of("{3::a|b| 0::c}")
    assert set(found) == {"a", "b"}
    assert 0.65 < found["a"] / len(SEEDS) < 0.85
    assert 0.4 < all_of("{a|b}")["a"] / len(SEEDS) < 0.6


def test_lines_of_files(folder):
    assert set(all_of("a __colours__ dog", folder=folder)) == {"a red dog", "a green dog", "a blue dog"}
    animals = {f"a {colour} {animal}" for colour in ("red", "green", "blue") for animal in ("fox", "wolf")}
    assert set(all_of("__animals/wild-ones__", folder=folder)) == animals
    assert len(all_of("__colours__ __colours__", folder=folder)) == 9
    assert set(all_of("{__colours__|x}", folder=folder)) == {"red", "green", "blue", "x"}


def test_what_is_wrong_with_files_is_told_in_one_line(folder, tmp_path):
    for prompt, told in (
        ("__colors__", r"colors.txt is not there; did you mean __colours__\?"),
        ("__nothing__", r"nothing.txt is not there$"),
        ("__empty__", r"empty.txt has no lines"),
        ("__circle__", r"wildcards hold wildcards .* 16 times: do they go round in circles\?"),
        ("__more__", r"a prompt has more than 50000 characters with its wildcards"),
        ("__out__", r"out.txt leads out of the folder"),
        ("__large__", r"large.txt has 10000001 bytes"),
        ("__latin__", r"latin.txt is not text in UTF-8"),
    ):
        (tmp_path / "empty.txt").write_text("# nothing\n")
        (tmp_path / "circle.txt").write_text("__circle__\n")
        (tmp_path / "more.txt").write_text("__more__ __more__ __more__ __more__ __more__ __more__\n")
        (tmp_path / "large.txt").write_bytes(b"a" * (wildcards.LARGEST_FILE + 1))
        (tmp_path / "latin.txt").write_bytes(b"\xe4")
        if not (tmp_path / "out.txt").exists():
            (tmp_path / "out.txt").symlink_to(__file__)
        with pytest.raises(InputError, match=told) as caught:
            draw(prompt, seed=0, folder=folder)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"no folder: tell wildcards=FOLDER, or write \\__a__$"):
        draw("__a__", seed=0)
    for prompt in ("__../colours__", "__/etc/passwd__"):
        assert draw(prompt, seed=0, folder=folder) == prompt


@pytest.mark.parametrize("prompt", ["{2$$a|b|c}", "{1-2$$a|b}", "{0::a|0::b}", "{" + "9" * 400 + "::a|b}"])
def test_what_cannot_be_drawn_is_refused(prompt):
    with pytest.raises(InputError, match=r"draws several at once|must have a weight"):
        draw(prompt, seed=0)


@given(SIGNS, st.integers(0, 2**32 - 1))
def test_whatever_is_written_is_read(prompt, seed):
    with suppress(InputError):
        text = draw(prompt, seed=seed)
        rest = iter(prompt)
        assert all(sign in rest for sign in text)
        assert draw(text, seed=seed + 1) == text  # nothing is left to draw


@pytest.mark.parametrize("unit", ["{", "{a|", "{a|b}", "|", "__", "__a", "_", "[", "}", "\\", "{a|b", "{[|"])
def test_long_prompts_take_no_long_time(unit):
    start = time.process_time()
    with suppress(InputError):
        draw(unit * (LONGEST // len(unit)), seed=0)
    assert time.process_time() - start < 3
