# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Scores on disk, a line of JSON for each measure and prompt, so that nothing is measured twice.

    {"measure": "DINO", "subject": "dog", "prompt": "a {identifier} {class_noun} in the snow", "of": "3f...",
     "values": [0.71, 0.68, 0.73, 0.7]}

``of`` stands for all that the values depend on: tower, pictures, photos and text.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreambooth_jax.errors import InputError
from dreambooth_jax.evaluation.scores import MEASURES, Group, Kind, Material, Measure, Towers, Values
from dreambooth_jax.evaluation.towers import Picture

SIGNS = 32
"""Of a hash."""
Scores = Mapping[str, Mapping[str, Values]]
"""Measure -> prompt -> values; a measure without a tower is not there."""


class ScoreFile:
    """The lines of one file. Those that were cut short are left out, as after a crash."""

    def __init__(self, path: Path):
        self.path = path
        self._known: dict[tuple[str, str], Values] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                row = json.loads(line)
                self._known[row["measure"], row["of"]] = row["values"]
            except (ValueError, KeyError, TypeError):
                continue

    def find(self, measure: str, of: str) -> Values | None:
        """What is known."""
        return self._known.get((measure, of))

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """More lines.

        Raises:
            InputError: if they cannot be written.
        """
        try:
            cut_short = self.path.is_file() and not self.path.read_bytes().endswith(b"\n")
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n" * cut_short + "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error.strerror or error}") from error
        self._known |= {(row["measure"], row["of"]): row["values"] for row in rows}


def score(material: Material, towers: Towers, *, subject: str, file: ScoreFile) -> Scores:
    """All measures that there are towers and pictures for; those that the file knows are not taken again."""
    photos = _hash(_pictures(material.photos))
    hashes: dict[Kind, list[str]] = {
        kind: [_hash(photos, group.text, _pictures(group.pictures), _pictures(group.before)) for group in groups]
        for kind, groups in material.groups.items()
    }
    found: dict[str, dict[str, Values]] = {}
    for measure in MEASURES:
        tower, groups = getattr(towers, measure.tower), material.groups.get(measure.kind, [])
        if tower is None or not groups:
            continue
        names = [_hash(tower.fingerprint, one) for one in hashes[measure.kind]]
        missing = [n for n, name in enumerate(names) if file.find(measure.name, name) is None]
        if missing:
            values = measure.values(tower, [groups[n] for n in missing], material.photos)
            file.add([_row(measure, subject, groups[n], names[n], one) for n, one in zip(missing, values)])
        found[measure.name] = {group.prompt: file.find(measure.name, name) or [] for group, name in zip(groups, names)}
    return found


def _row(measure: Measure, subject: str, group: Group, of: str, values: Values) -> dict[str, Any]:
    return {"measure": measure.name, "subject": subject, "prompt": group.prompt, "of": of, "values": values}


def _pictures(pictures: Sequence[Picture]) -> str:
    return _hash(*(_hash(str(one.shape), one.tobytes()) for one in pictures))


def _hash(*parts: str | bytes) -> str:
    whole = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        whole.update(len(content).to_bytes(8, "big") + content)
    return whole.hexdigest()[:SIGNS]
