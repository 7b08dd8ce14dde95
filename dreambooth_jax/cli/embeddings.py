# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""New words on the command line: ``--embedding FILE`` or ``--embedding WORD=FILE``."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from dreambooth_jax.paths import at_home

if TYPE_CHECKING:
    from dreambooth_jax.runs import OpenedModel

log = logging.getLogger(__name__)


def with_embeddings(model: "OpenedModel", texts: Sequence[str]) -> "OpenedModel":
    """A model with the words of files.

    Raises:
        InputError: if a file is not there, is none or is for another model, or a word is there already.
    """
    pipe = replace(model.pipe, params=model.params)
    for text in texts:
        word, _, file = text.rpartition("=")
        named = bool(word) and not at_home(text).is_file()
        before = set(pipe.tokenizer.added)
        pipe = pipe.with_embeddings({word: file} if named else [text])
        for new in pipe.tokenizer.added.keys() - before:
            vectors = len(pipe.tokenizer.added[new])
            log.info("new word %r, %d vector%s, of %s", new, vectors, "s" * (vectors > 1), file if named else text)
    return replace(model, pipe=pipe, params=pipe.params)
