# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Pages of the site that nobody writes."""

import json
import re

import pytest

from dreambooth_jax.cli.pages import page as help_page
from dreambooth_jax.cli.parsing import known_keys
from dreambooth_jax.cli.verbs import VERBS
from dreambooth_jax.config import Config, keys
from dreambooth_jax.config.schema import ConceptConfig
from tests.docs.texts import ROOT


def plain(markdown):
    return markdown.replace("\\", "")


def test_every_setting_is_on_the_page_of_settings_once():
    from generated import settings

    named = re.findall(r"^`([^`]+)`\{ #(\S+) \}", settings.page(), re.MULTILINE)
    of_entries = {f"data.concepts.N.{key}" for key in keys(ConceptConfig)}
    assert sorted(key for key, _ in named) == sorted({*keys(Config), *of_entries})
    assert all(key == anchor for key, anchor in named)


@pytest.mark.parametrize("verb", VERBS.values(), ids=lambda verb: verb.name)
def test_a_verb_has_the_words_of_its_help(verb, monkeypatch):
    """All that ``--help`` shows; settings that runs share are on a page of their own."""
    from generated import commands

    monkeypatch.setenv("COLUMNS", "110")
    text = plain(commands.page(verb))
    own = {*(key for keys in verb.common.values() for key in keys), *verb.options}
    for key in own if verb.settings is Config else known_keys(verb):
        assert f"`--{key}`" in text or f"`{key}`" in text, key
    helped = {word for line in help_page(verb, every_key=False).splitlines()[3:-3] for word in line.split()}
    missing = {word for word in helped if word.strip("[];|-") and word.strip("[];") not in text}
    assert missing <= {"options", *" ".join(verb.common).split(), "what", "can", "be", "set"}, missing


def test_links_out_of_the_documentation_lead_to_pages(tmp_path):
    from generated.repository import Repository

    for name, text in {
        "README.md": "[a](docs/a.md#part) [b](code/b.py) [gone](gone.py) [out](https://x.org/y.py)",
        "docs/a.md": "[home](../README.md) [folder](../code) ![c](../code/c.png) [here](#part)",
        "code/b.py": "print(1)\n",
        "code/c.png": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    site = Repository(tmp_path)
    pages = site.pages()
    assert pages.keys() == {"index.md", "repository/code/b.py.md", "repository/code.md", "repository/code/c.png"}
    assert pages["repository/code/b.py.md"] == "# `code/b.py`\n\n```python\nprint(1)\n```"
    assert site.as_links_of_the_site(pages["index.md"], "index.md") == (
        "[a](a.md#part) [b](repository/code/b.py.md) [gone](gone.py) [out](https://x.org/y.py)"
    )
    assert site.as_links_of_the_site((tmp_path / "docs/a.md").read_text(), "a.md") == (
        "[home](index.md) [folder](repository/code.md) ![c](repository/code/c.png) [here](#part)"
    )


def test_arguments_that_are_told_of_together_are_told_of_one_by_one():
    pytest.importorskip("griffe", reason="needs the extra site")
    from docstrings import as_griffe_reads_it

    text = "Do.\n\nArgs:\n    a, b: two\n        of them, both: here.\n    c: :class:`~x.C`."
    both = "two\n        of them, both: here."
    assert as_griffe_reads_it(text) == f"Do.\n\nArgs:\n    a: {both}\n    b: {both}\n    c: `x.C`."


def test_the_notebook_is_plain():
    """Without outputs and counts, so that a change of it can be read; and no path of one machine."""
    notebook = json.loads((ROOT / "docs" / "notebooks" / "dreambooth.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert not re.search(r"[\s\"'=](/|~/)\w", "".join(cell["source"]))


def test_every_page_has_its_place():
    text = (ROOT / "docs" / "site" / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"^ +- (?:.*[\[ ])?([\w/]+\.md)\b", text, re.MULTILINE)
    written = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert sorted(listed) == sorted(written | {"index.md", "settings.md", "notebooks/dreambooth.md"})
