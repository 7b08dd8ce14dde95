# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is no path, and what is no argument at all: one line each, from Python as from the command line."""

from inspect import unwrap
from pathlib import Path

import pytest

import dreambooth_jax as dbx
from dreambooth_jax.errors import InputError
from dreambooth_jax.paths import at_home


def test_the_home_of_the_user_and_of_nobody(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert at_home("~/photos") == Path("/somewhere/photos")
    assert at_home("~nobody-of-this-name/photos") == Path("~nobody-of-this-name/photos")


@pytest.mark.parametrize("text", ["a photo " * 40, "é" * 130, "a/" * 3000])
@pytest.mark.parametrize("take", [at_home, dbx.load_config, dbx.load_pretrained])
def test_a_text_that_is_too_long_for_a_path(take, text):
    with pytest.raises(InputError, match="was a text meant"):
        take(text)


def test_the_longest_names_are_asked_for():
    assert at_home("é" * 127 + "a").name == "é" * 127 + "a"
    with pytest.raises(InputError, match="is not there"):
        dbx.load_config("a" * 255)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: unwrap(at_home)(None), "None is no path"),
        (lambda: unwrap(dbx.load_config)("quickstart", "train.steps=3"), "give a list of texts"),
        (lambda: unwrap(dbx.load_config)("quickstart", [3]), "give a list of texts"),
        (lambda: unwrap(dbx.plan)(5), "5 is no Config"),
        (lambda: unwrap(dbx.plan)(dbx.load_config("quickstart"), target=5), "target=5: give a name"),
        (lambda: unwrap(dbx.save_pretrained)("model", None, {}), "pipe=None"),
    ],
)
def test_an_argument_of_another_kind(call, message):
    """Unwrapped, since the tests check the types of all arguments themselves."""
    with pytest.raises(InputError, match=message):
        call()
