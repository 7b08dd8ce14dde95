# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Verbs and their pages are data."""

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from dreambooth_jax.cli import main
from dreambooth_jax.cli.pages import overview, page
from dreambooth_jax.cli.parsing import known_keys, read_call
from dreambooth_jax.cli.verb import Option, Verb
from dreambooth_jax.cli.verbs import VERBS
from dreambooth_jax.cli.words import one_each
from dreambooth_jax.config import Config

CLI = Path(__file__).parents[2] / "dreambooth_jax" / "cli"


@dataclass(frozen=True, kw_only=True)
class GreetOptions:
    """Whom, and how often."""

    name: str
    """Who is greeted."""
    times: int = 1
    """How often."""


def greeting(call):
    print(call.settings.times * f"hello {call.settings.name}{'!' if call.options['loud'] else ''} ")


def test_a_verb_is_one_line_in_the_registry(monkeypatch, capsys):
    greet = Verb(
        name="greet",
        usage="NAME [KEY=VALUE ...]",
        help="say hello",
        settings=GreetOptions,
        options={"loud": Option(bool, "With a sign.")},
        place_words=one_each("name"),
        run=greeting,
    )
    monkeypatch.setitem(VERBS, "greet", greet)  # the line
    assert main(["greet", "Ada", "times=2", "--loud=true"]) == 0
    assert capsys.readouterr().out.strip() == "hello Ada! hello Ada!"
    assert main(["greet", "Ada", "timez=2"]) == 2
    assert "did you mean times?" in capsys.readouterr().err
    assert main(["greet", "Ada", "Bob"]) == 2
    assert "one word too many" in capsys.readouterr().err
    assert main(["--help"]) == 0
    assert "greet     say hello" in capsys.readouterr().out
    assert main(["greet", "--help"]) == 0
    assert "How often. [default 1]" in capsys.readouterr().out


def test_no_verb_is_named_outside_its_own_file():
    for path in CLI.glob("*.py"):
        named = set(re.findall(r"""["'](\w+)["']""", path.read_text())) & set(VERBS)
        assert named <= {path.stem}, path


@pytest.mark.parametrize("verb", VERBS.values(), ids=lambda verb: verb.name)
def test_a_page_can_be_read(verb, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = page(verb, every_key=False)
    assert len(text.splitlines()) <= 70
    monkeypatch.setenv("COLUMNS", "200")
    assert max(map(len, page(verb, every_key=False).splitlines())) <= 110
    assert "tuple[" not in text
    assert "Literal" not in text
    for keys in verb.common.values():
        for key in keys:
            assert re.search(rf"^  {re.escape(key)} ", text, re.MULTILINE)


@pytest.mark.parametrize("verb", VERBS.values(), ids=lambda verb: verb.name)
def test_all_keys_are_on_the_page_of_all_keys(verb):
    text = page(verb, every_key=True)
    for key in known_keys(verb):
        assert re.search(rf"^  (--)?{re.escape(key)} +\S", text, re.MULTILINE), key


@pytest.mark.parametrize(
    "command", [command for verb in VERBS.values() for _, command in verb.examples], ids=lambda command: command
)
def test_every_example_is_understood(command, monkeypatch):
    monkeypatch.chdir(CLI.parents[1])
    verb, *words = shlex.split(command)
    read_call(VERBS[verb], words)


def test_a_call_leaves_nothing_to_the_next():
    """A verb's parser is made once."""
    words = ["quickstart", "train.steps=7", "data.concepts.0.identifier=abc", "--num_processes=2"]
    first = read_call(VERBS["train"], words)
    plain = read_call(VERBS["train"], [])
    assert plain.settings == Config()
    assert set(plain.options.values()) == {None}
    assert read_call(VERBS["train"], words) == first


def test_the_overview_names_every_verb():
    text = overview(VERBS.values())
    assert all(f"  {verb.name} " in text and verb.help in text for verb in VERBS.values())


@pytest.mark.parametrize(
    "arguments", [["--help"], ["-h"], ["train", "--help"], ["train", "--help-all"], ["sample", "-h"]]
)
def test_help_is_no_error_and_needs_neither_jax_nor_a_parser(arguments):
    code = (
        "import sys\nfrom dreambooth_jax.cli import main\n"
        f"assert main({arguments!r}) == 0\n"
        "assert not {'jax', 'jsonargparse'} & set(sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ended.stdout.startswith("dreambooth-jax ")


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"dreambooth-jax \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_a_line_does_not_run_into_a_progress_bar():
    code = (
        "import logging\nfrom dreambooth_jax.cli.messages import plain_messages\n"
        "from dreambooth_jax.progress import Progress\nplain_messages()\n"
        "with Progress(total=3, desc='train'):\n    logging.getLogger('dreambooth_jax.x').info('a line of its own')"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "a line of its own" in re.split(r"[\r\n]", ended.stderr)
