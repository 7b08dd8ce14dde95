# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Asking what words are to a model: the tokens that they fall into."""

from functools import lru_cache
from pathlib import Path

from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.requests.text import check_text
from dreambooth_jax.config import ModelConfig
from dreambooth_jax.config.tokens import KINDS
from dreambooth_jax.data.tokenizer import Tokenizer, load_tokenizer
from dreambooth_jax.doctor.examine import pieces_of
from dreambooth_jax.doctor.of_photos import MOST_PIECES
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline.load import source_of
from dreambooth_jax.weights.sources import open_source


def tokens(desk: Desk, *, config: str, noun: str, identifier: str, method: str = "") -> str:
    """Into which tokens both words fall, and what speaks against the identifier; a line each.

    Args:
        desk: that is asked.
        config: one of those that can be trained.
        noun: what the photos show; may be empty.
        identifier: the word for this one; empty is that of the settings.
        method: one of ``METHODS``; empty is the settings' own.

    Raises:
        InputError: for words that are none, or a model that cannot be had.
    """
    desk.check_offered(config)
    check_text("what the photos show", noun)
    check_text("the word for this one", identifier)
    settings = desk.settings(config, method=method)
    word = identifier.strip() or settings.data.identifier
    tokenizer = _tokenizer(settings.model)
    lines = [f"{one!r} is read as {_said(tokenizer, one)}" for one in (noun.strip(), word) if one]
    if settings.adapter.kind in KINDS:
        return "\n".join([*lines[:-1], f"{word!r} becomes a new word"])
    return "\n".join([*lines, *_doubts(tokenizer, word)])


def _said(tokenizer: Tokenizer, text: str) -> str:
    return " + ".join(piece.removesuffix("</w>") for piece in tokenizer.pieces(text)) or "nothing"


def _doubts(tokenizer: Tokenizer, word: str) -> list[str]:
    pieces = pieces_of(tokenizer, word)
    if not pieces:
        return [f"{word!r} is nothing to the model: choose a rare word such as sks"]
    if len(pieces) > MOST_PIECES:
        return [f"{word!r} is {len(pieces)} tokens, which are harder to bind than one: a rare word such as sks is one"]
    if all(piece.common for piece in pieces):
        return [f"the model knows {word!r} from other pictures: a rare word such as sks means nothing to it yet"]
    return []


@lru_cache(maxsize=16)
def _tokenizer(model: ModelConfig) -> Tokenizer:
    """Of the first text encoder, which most of a prompt is read by."""
    found = open_source(source_of(model.path), revision=model.revision, tokenizer=model.tokenizer, weights=False)
    if not found.tokenizers:
        raise InputError("this model has no tokenizer: words cannot be looked at")
    return load_tokenizer(Path(next(iter(found.tokenizers.values()))))
