# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The words that a run learns, before it has learned them."""

from collections.abc import Iterable

from dreambooth_jax.adapters.new_words import words_of
from dreambooth_jax.config import Config
from dreambooth_jax.config.tokens import KINDS
from dreambooth_jax.data.added_words import split
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline import Pipeline


def taught(pipe: Pipeline, config: Config) -> Pipeline:
    """A pipeline that reads prompts as the run will; the vectors of its words are not there."""
    return pipe.with_words(words_of(config)) if config.adapter.kind in KINDS else pipe


def check_used(config: Config, texts: Iterable[str]) -> None:
    """Raise InputError if no photo is called by a word that the run learns: it would stay as it is.

    Args:
        config: of the run.
        texts: what all photos are called.
    """
    if config.adapter.kind not in KINDS:
        return
    words = dict.fromkeys(words_of(config), range(0))
    used = {word for text in texts for _, _, word in split(text, words)}
    if missing := [word for word in words if word not in used]:
        raise InputError(
            f"no photo is called {missing[0]!r}, which is to be learned: write {{identifier}} or the word itself into "
            "data.instance_prompt, data.templates or the captions"
        )
