# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What people read, and what is in it."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
WRITTEN = [path for path in TEXTS if path.name != "CHANGELOG.md"]
"""Texts that say how it is now."""
PROGRAM = "dreambooth-jax"


def fenced(text: str, language: str) -> list[str]:
    """Blocks of code of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def inline(text: str) -> list[str]:
    """Code within sentences, on one line each."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]


def commands(text: str) -> Iterator[list[str]]:
    """The words after ``dreambooth-jax`` of all command lines in blocks of bash, and of those within sentences."""
    blocks = "\n".join(fenced(text, "bash")).replace("\\\n", " ").splitlines()
    for line in [*blocks, *(code for code in inline(text) if code.startswith(f"{PROGRAM} "))]:
        words = shlex.split(line, comments=True)
        while PROGRAM in words:
            words = words[words.index(PROGRAM) + 1 :]
            end = next((number for number, word in enumerate(words) if word in ("&&", "|", ";")), len(words))
            yield [word for word in words[:end] if word != "..."]
