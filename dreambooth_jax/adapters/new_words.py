# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Which words a run learns, and what their vectors are at first."""

from collections.abc import Mapping, Sequence

from dreambooth_jax.adapters.textual_inversion import Beginning
from dreambooth_jax.config import Config
from dreambooth_jax.config.concepts import concepts_of
from dreambooth_jax.data.added_words import check_word
from dreambooth_jax.data.tokenizer import Tokenizer
from dreambooth_jax.errors import InputError


def words_of(config: Config) -> dict[str, int]:
    """Word -> its number of vectors. Raises InputError for what can be no word."""
    words = [check_word(word) for word in config.tokens.words or (one.identifier for one in concepts_of(config))]
    if len({word.casefold() for word in words}) < len(words):
        raise InputError(f"tokens.words has a word twice: {', '.join(words)}; leave one out")
    return dict.fromkeys(words, config.tokens.vectors)


def beginnings_of(config: Config, tokenizers: Mapping[str, Tokenizer]) -> dict[str, list[Beginning]]:
    """Text encoder -> what each vector is at first, of all words one after the other."""
    count, tokens = len(words_of(config)), config.tokens
    nouns = [one.class_noun for one in concepts_of(config)]
    texts = list(tokens.init) or (nouns if len(nouns) == count else nouns[:1])
    texts = texts if len(texts) == count else texts * count
    return {
        encoder: [one for text in texts for one in begin(text, tokenizer, vectors=tokens.vectors, mean=tokens.mean)]
        for encoder, tokenizer in tokenizers.items()
    }


def begin(text: str, tokenizer: Tokenizer, *, vectors: int, mean: bool) -> Sequence[Beginning]:
    """What the vectors of a word are at first.

    Args:
        text: what the word means at first; blank for random vectors.
        tokenizer: of the text encoder.
        vectors: how many there are.
        mean: each is the mean of all tokens of the text; else one token is all of them, and several one each.

    Raises:
        InputError: if there are neither one token nor as many as vectors.
    """
    if not text.strip():
        return [()] * vectors
    (ids,) = tokenizer.words([text])
    if not tokenizer.pieces(text):
        raise InputError(f"tokens.init = {text!r} is nothing to the tokenizer: take another text")
    if mean:
        return [tuple(ids)] * vectors
    if len(ids) not in (1, vectors):
        pieces = ", ".join(tokenizer.pieces(text))
        raise InputError(
            f"tokens.init = {text!r} is {len(ids)} tokens ({pieces}) for {vectors} vector{'s' * (vectors > 1)}: set "
            f"tokens.vectors={len(ids)}, or tokens.mean=true to begin with their mean, or take a text of one token"
        )
    return [(number,) for number in (ids if len(ids) == vectors else ids * vectors)]
