# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How pictures are called: one template for all, or a caption for each.

    "a photo of {identifier} {class_noun}"  +  Subject("sks", "dog")  ->  "a photo of sks dog"

Braces themselves are written ``{{`` and ``}}``. Captions lie beside the pictures (``photo.jpg`` and ``photo.txt``) or
in a table (``data/picture_table.py``). They may use the same fields.
"""

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from dreambooth_jax.errors import InputError
from dreambooth_jax.text_files import read_text

SIDECARS = (".txt", ".TXT", ".Txt")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is learned, in words."""

    identifier: str
    """Rare word that the subject is bound to."""
    class_noun: str
    """What it is: dog, backpack, person. May be empty."""

    def fill(self, template: str, *, syntax: Literal["plain", "a1111"] = "plain") -> str:
        r"""The template with its fields filled in, and runs of white space made one blank.

        Args:
            template: where braces themselves are written ``{{`` and ``}}``; in A1111's syntax ``\{`` and ``\}``, which
                stay what they are, as do braces with a ``|``: these are wildcards.
            syntax: of prompts that are filled in.

        Raises:
            InputError: a field in braces that is none of this class's.
        """
        known = [field.name for field in fields(self)]
        braces = r"\{ and \}" if syntax == "a1111" else "{{ and }}"
        pattern = r"\\.|\{([^{}|\\]*)\}" if syntax == "a1111" else r"\{\{|\}\}|\{([^{}]*)\}"

        def value(match: re.Match[str]) -> str:
            if match[1] is None:
                return match[0] if syntax == "a1111" else match[0][0]
            if match[1] not in known:
                (nearest,) = difflib.get_close_matches(match[1], known, n=1, cutoff=0)
                raise InputError(
                    f"unknown field {match[0]} in {template!r}; did you mean {{{nearest}}}? "
                    f"Braces themselves are written {braces}"
                )
            return getattr(self, match[1])

        return " ".join(re.sub(pattern, value, template, flags=re.DOTALL).split())

    def without_identifier(self, template: str, *, syntax: Literal["plain", "a1111"] = "plain") -> str:
        """What a prompt says but for the identifier, which no tower knows."""
        return without_words(replace(self, identifier="").fill(template, syntax=syntax), self.identifier)


def without_words(text: str, words: str) -> str:
    """A text without some words, wherever they stand one after the other."""
    kept, gone = text.split(), words.split()
    while gone and (at := _find(kept, gone)) is not None:
        kept = kept[:at] + kept[at + len(gone) :]
    return " ".join(kept)


def _find(texts: list[str], words: list[str]) -> int | None:
    places = range(len(texts) - len(words) + 1)
    return next((at for at in places if texts[at : at + len(words)] == words), None)


def read_sidecar(picture: Path) -> str | None:
    """The text beside a picture; None where there is none or it is blank. Raises InputError if it is not UTF-8."""
    path = next((path for path in map(picture.with_suffix, SIDECARS) if path.is_file()), None)
    return (read_text(path).strip() or None) if path else None


def near_sidecars(folder: Path, pictures: Collection[str]) -> list[tuple[str, str]]:
    """(text, picture) of texts that are nearly called as a picture's caption is: ``A.txt`` or ``a.png.txt``."""
    own = {path.name for name in pictures for path in map((folder / name).with_suffix, SIDECARS)}
    stems = {near.casefold(): name for name in sorted(pictures) for near in (name, Path(name).stem)}
    texts = sorted(path.name for path in folder.iterdir() if path.suffix.lower() == ".txt" and path.name not in own)
    return [(text, stems[stem]) for text in texts if (stem := text[:-4].casefold()) in stems]
