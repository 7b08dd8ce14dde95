# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The documentation as a site: built without a warning, and nothing in it is fetched from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dreambooth_jax.cli.verbs import VERBS
from tests.docs.texts import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Its folder: one that is built already, or else a new one."""
    pytest.importorskip("mkdocstrings", reason="needs the extra site")
    pytest.importorskip("material", reason="needs the extra site")
    if built := os.environ.get("DREAMBOOTH_JAX_SITE"):
        return Path(built)
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", "docs/site/mkdocs.yml", "-d", str(folder)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return folder


def test_it_has_its_pages(site):
    names = {str(path.relative_to(site)) for path in site.rglob("*.html")}
    written = {f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md")}
    assert names >= {"index.html", "settings.html", "notebooks/dreambooth.html", "reference/training.html", *written}
    assert names >= {f"commands/{verb}.html" for verb in VERBS}
    assert (site / "notebooks" / "dreambooth.ipynb").exists()
    assert "batch_at" in (site / "reference" / "data.html").read_text(encoding="utf-8")


def test_nothing_is_fetched_from_elsewhere(site):
    """Scripts, styles, fonts and pictures are files of the site. Links that one may click are no fetches."""
    for path in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", path.read_text(encoding="utf-8")):
            assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", tag), f"{path.name}: {tag}"
    for path in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", path.read_text(encoding="utf-8")), path
