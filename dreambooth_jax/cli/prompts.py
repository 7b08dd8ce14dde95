# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Prompts of the command line: those that are written there, of a file, and of lists known by name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from dreambooth_jax.config.setting import shown
from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.errors import InputError
from dreambooth_jax.options import SampleOptions
from dreambooth_jax.prompts.limits import checked_prompts
from dreambooth_jax.prompts.named import expanded
from dreambooth_jax.text_files import read_lines


def read_prompts(options: SampleOptions, *, needed: bool = True) -> list[str]:
    """Prompts of the command line, then those of the file.

    Raises:
        InputError: if there is none, one is empty or far too long, or no such file.
    """
    prompts = list(options.prompts) + (read_lines(options.prompts_file) if options.prompts_file else [])
    if not prompts and needed:
        raise InputError("no prompt: write it after the model, in quotes, or give --prompts_file=prompts.txt")
    return checked_prompts(prompts)


def words_of(options: SampleOptions) -> dict[str, str | None]:
    """What the fields of prompts are: as told, or else the words of the run; None where nobody says.

    Of a run's several subjects it is the one whose identifier is told.
    """
    from dreambooth_jax.config import load_config
    from dreambooth_jax.config.concepts import concepts_of
    from dreambooth_jax.runs import RunFolder

    words: dict[str, str | None] = {"identifier": options.identifier, "class_noun": options.class_noun}
    run = RunFolder(Path(options.source))
    if None in words.values() and run.is_run():
        concepts = concepts_of(load_config(run.config))
        named = [one for one in concepts if options.identifier in (None, one.identifier)] if concepts[1:] else concepts
        if len(named) == 1:
            words = {name: getattr(named[0], name) if word is None else word for name, word in words.items()}
    return words


def fill_prompts(
    prompts: Sequence[str], words: Mapping[str, str | None], *, syntax: Literal["plain", "a1111"]
) -> list[str]:
    """Prompts with those of lists in the place of their names, and with fields filled in where there is syntax.

    Args:
        prompts: of the command line.
        words: of :func:`words_of`.
        syntax: how they are read. What is plain has no fields, unless it is of a list.

    Raises:
        InputError: for a field that there is not, or of which nobody said what it is.
    """
    subject = Subject(**{name: word or "" for name, word in words.items()})
    filled = []
    for prompt in prompts:
        templates = expanded([prompt])
        if syntax == "plain" and templates == [prompt]:
            filled.append(prompt)
            continue
        for template in templates:
            lacking = [name for name, word in words.items() if word is None and f"{{{name}}}" in template]
            if lacking:
                raise InputError(f"the prompt {shown(template)} has {{{lacking[0]}}}: tell {lacking[0]}=...")
            filled.append(subject.fill(template, syntax=syntax))
    return filled
