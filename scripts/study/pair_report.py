# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Who is taken for whom, where two subjects were trained in one model: the section of docs/study.md."""

from collections.abc import Mapping, Sequence
from typing import Any

from .claims import concluded, interval
from .pairs import CLAIMS, CONDITIONS, IDENTIFIERS, NOUN, PICTURES, SEEN, of_seen, rows_of
from .subjects import spoken

_HEAD = """\

## Two subjects in one model

LoRA of rank 16, convolutions too, as above, on two subjects at once that are both called a {noun}: {words}. {word}
pictures were asked for with the word of each ("a sks {noun} on the grass") and {class} with the class alone; the judge
took them for the subject that they were asked for, for the other one of the model, or for neither. Shares are means
over {pairs} pairs with their 95 % interval (Student's t). There are no class pictures: a teacher, the model as it was,
is asked at the subjects' pictures what it makes of the class prompt, and the class term holds the model to that; in the
second condition also of the other subject's prompt.

| | asked for | itself | the other | neither |
|---|---|---|---|---|
"""
_ASKED = {"word": "a subject by its word", "class": "its class alone"}


def section(lines: Sequence[Mapping[str, Any]]) -> str:
    """Of the lines of pairs.jsonl; nothing if there is not a pair that all conditions were trained with."""
    lines = comparable(lines)
    if not lines:
        return ""
    pairs = {tuple(line["pair"]) for line in lines}
    text = _HEAD.format(noun=NOUN, words=" and ".join(IDENTIFIERS), **PICTURES, pairs=len(pairs))
    for condition in CONDITIONS:
        for kind, asked in _ASKED.items():
            rows = rows_of(condition, lines, kind=kind)
            cells = [
                f"{mean:.2f} ± {error:.2f}".replace(" ± inf", "")
                for mean, error, _ in (interval([r[s] for r in rows]) for s in SEEN)
            ]
            text += f"| {condition.name} | {asked} | " + " | ".join(cells) + " |\n"
    text += "\n| claim | here | difference | pairs |\n|---|---|---|---|\n"
    found = {condition.name: rows_of(condition, lines) for condition in CONDITIONS}
    text += "".join(f"| {claim.text} | {concluded(claim, found)} |\n" for claim in CLAIMS)
    if not any(row["other"] for rows in found.values() for row in rows):
        text += "\nNobody is taken for the other, with these lessons or without: there was no bleeding to stop.\n"
    return text + "".join(_each(name, lines, key) for name, key in ((one.name, one.key) for one in CONDITIONS))


def comparable(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of pairs and seeds that all conditions have."""
    ran = {one.key: {_pair(line) for line in lines if line["training"] == one.key} for one in CONDITIONS}
    shared = set.intersection(*ran.values())
    return [line for line in lines if line["training"] in ran and _pair(line) in shared]


def _pair(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return (*line["pair"], line["seed"])


def _each(name: str, lines: Sequence[Mapping[str, Any]], key: str) -> str:
    """The matrices of one condition, a line for each subject."""
    text = f"\nPair by pair, *{name}*:\n\n| | beside | itself | the other | neither | its class: itself | the other |\n"
    text += "|---" * 7 + "|\n"
    for line in (line for line in lines if line["training"] == key):
        for subject, beside in zip(line["pair"], reversed(line["pair"])):
            word, of_class = (of_seen(line[kind][subject], subject) for kind in _ASKED)
            cells = [*(word[one] for one in SEEN), *(of_class[one] for one in SEEN[:2])]
            text += f"| {spoken(subject)} | {spoken(beside)} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |\n"
    return text
