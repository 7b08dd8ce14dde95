# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Every command that the README and the documentation show is one that the program takes."""

import re

import pytest

from dreambooth_jax.cli.pages import page
from dreambooth_jax.cli.parsing import find_verb, read_call
from dreambooth_jax.cli.verbs import VERBS
from dreambooth_jax.config import Config, keys
from dreambooth_jax.config.schema import ConceptConfig
from tests.docs.texts import ROOT, WRITTEN, commands, inline

PLACEHOLDERS = {"CONFIG": "quickstart", "VERB": "train", "SOURCE": "embedded"}
KEY = re.compile(r"([a-z_]+(?:\.[a-z_0-9]+)+)(?:=.*)?")


def test_commands_are_found():
    """The reader of texts, by a text."""
    text = (
        "```bash\npip install . && dreambooth-jax train a.yaml \\\n  x=1 # so\n```\nSee `dreambooth-jax plan ... y=2`."
    )
    assert list(commands(text)) == [["train", "a.yaml", "x=1"], ["plan", "y=2"]]


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_they_parse(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in commands(path.read_text(encoding="utf-8")):
        words = [PLACEHOLDERS.get(word, word) for word in words]
        if words[0].startswith("--"):  # --help, --version
            continue
        verb = find_verb(words)
        if {"--help", "--help-all"} & {*words}:
            assert page(verb, every_key="--help-all" in words)
        elif len(words) > 1:
            read_call(verb, words[1:])


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_settings_that_are_named_are_there(path):
    known = {*keys(Config), *(f"data.concepts.{name}" for name in keys(ConceptConfig))}
    groups = {key.partition(".")[0] for key in known if "." in key}
    for code in inline(path.read_text(encoding="utf-8")):
        for word in code.split():
            named = KEY.fullmatch(word)
            if named and named[1].partition(".")[0] in groups and not named[1].endswith((".yaml", ".json", ".png")):
                assert re.sub(r"\.\d+\b", "", named[1]) in known, f"{path.name}: {word}"


def test_every_verb_is_told_of():
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^dreambooth-jax (\w+)", text, re.MULTILINE)) == set(VERBS)
