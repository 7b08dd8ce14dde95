# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Whom pictures should show, and what is asked for."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from dreambooth_jax.config import Config, DataConfig
from dreambooth_jax.config.concepts import Concept, concepts_of
from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.data.sources import Photo
from dreambooth_jax.errors import InputError
from dreambooth_jax.options import EvaluateOptions
from dreambooth_jax.prepare.photos import read_photos
from dreambooth_jax.prompts.limits import checked_prompts
from dreambooth_jax.prompts.named import NAMED, expanded
from dreambooth_jax.text_files import read_lines

log = logging.getLogger(__name__)

EMBEDDED = "embedded"
LIVE = (
    *("animal", "bird", "boy", "cat", "child", "cow", "dog", "face", "girl", "horse", "kitten", "man", "monkey"),
    *("person", "puppy", "rabbit", "woman"),
)
"""Class nouns of which the paper's second list of prompts is asked, with clothes in the place of more places."""


@dataclass(frozen=True, kw_only=True)
class Sitter:
    """One subject.

    Attributes:
        name: of it, in reports and folders.
        words: identifier and class noun.
        photos: real ones.
        templates: prompts of it, with fields.
        class_prompt: a prompt of its class.
        other: prompts that have nothing to do with it.
    """

    name: str
    words: Subject
    photos: tuple[Photo, ...]
    templates: tuple[str, ...]
    class_prompt: str
    other: tuple[str, ...]

    @property
    def prompts(self) -> list[str]:
        """What is drawn."""
        return [self.words.fill(template) for template in self.templates]

    def without_identifier(self, template: str) -> str:
        """What a prompt says but for the identifier, which no tower knows."""
        return self.words.without_identifier(template)


def sitters_of(config: Config | None, options: EvaluateOptions, *, name: str, model: str) -> Iterator[Sitter]:
    """The subjects of a run, or of what is to be compared with it.

    Args:
        config: of the run; None where there is none at all.
        options: of the command line, which go first.
        name: of the run.
        model: path of the model that draws.

    Raises:
        InputError: if nobody says what the subject is or where its photos are.
    """
    config = config or Config()
    for one in concepts_of(config):
        identifier = options.identifier or one.identifier
        class_noun = one.class_noun if options.class_noun is None else options.class_noun
        source = options.photos or one.instance_images
        if not source:
            raise InputError(f"{name}: nobody says how the subject looks: give --photos=FOLDER, or compare with a run")
        words = Subject(identifier=identifier, class_noun=class_noun)
        shown = replace(one, identifier=identifier, class_noun=class_noun)
        templates = _templates(options.prompts, class_noun, model)
        yield Sitter(
            name="-".join(part for part in (name, one.name) if part),
            words=words,
            photos=_photos(source, shown, config.data),
            templates=templates,
            class_prompt=words.fill(options.class_prompt or one.class_prompt),
            other=_other(options.other_prompts, model),
        )


def _photos(source: str, concept: Concept, data: DataConfig) -> tuple[Photo, ...]:
    return read_photos(source, prompt="a {class_noun}", concept=concept, data=replace(data, resolution=8))


def _templates(asked: str, class_noun: str, model: str) -> tuple[str, ...]:
    if asked == "auto":
        live = class_noun.split()[-1:] and class_noun.split()[-1].lower() in LIVE
        asked = EMBEDDED if model == EMBEDDED else "dreambooth-live" if live else "dreambooth-object"
    return read_prompts("prompts", asked)


def _other(asked: str, model: str) -> tuple[str, ...]:
    return read_prompts(
        "other_prompts", ("embedded-other" if model == EMBEDDED else "other") if asked == "auto" else asked
    )


def read_prompts(key: str, asked: str) -> tuple[str, ...]:
    """Prompts of a list's name, or of a file.

    Raises:
        InputError: if it is neither, or the file has none.
    """
    if asked in NAMED:
        return NAMED[asked]
    if not Path(asked).is_file():
        expanded([asked])  # says what was nearly meant
        raise InputError(f"{key} = {asked}: neither a text file nor one of {', '.join(NAMED)}")
    prompts = checked_prompts(expanded(read_lines(asked)))
    if not prompts:
        raise InputError(f"{key} = {asked} has no prompt: write one on each line")
    return tuple(prompts)
