# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What texts point to is there."""

import re

import pytest

from tests.docs.texts import TEXTS

LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors(text: str) -> set[str]:
    """Of the headings of a text, as forges and the site make them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_links(path):
    text = path.read_text(encoding="utf-8")
    for name, anchor in LINK.findall(text):
        if "://" in name:
            continue
        target = path.parent / name if name else path
        assert target.exists(), f"{path.name} points to {name}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{path.name} points to {name}#{anchor}"
