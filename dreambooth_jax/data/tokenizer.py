# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Prompts to token ids, with the tokenizer that lies beside the model.

    <|startoftext|> a photo of sks dog <|endoftext|> pad pad ...        always ``max_length`` (77) ids

What pads is the folder's business: Stable Diffusion 1 has ``<|endoftext|>`` for it, 2 has ``!``, which is id 0.
"""

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from dreambooth_jax.data.added_words import Words, check_word, joined, split
from dreambooth_jax.errors import InputError
from dreambooth_jax.prompts.limits import check_length

LARGEST = 64 * 2**20
"""Bytes of a file; those of CLIP's tokenizer have one or two million."""


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """CLIP's tokenizer with a fixed length."""

    folder: Path
    """Where its files are; an exported model gets a copy of them."""
    backend: Any
    """transformers' ``CLIPTokenizer``."""
    max_length: int = 77
    """Ids per prompt, the first and last token among them."""
    added: Words = field(default_factory=dict)
    """Words that the files do not have, and the ids of their vectors."""
    pad_is_text: bool = False
    """Whether a padding token of its own (``!``), where a text spells it, is text, as to open_clip, A1111 and ComfyUI;
    to transformers, and so to diffusers, it is padding."""

    def with_words(self, words: Words) -> "Tokenizer":
        """The same with more words.

        Raises:
            InputError: if it has one already, no prompt could have it, or it does not fit into one.
        """
        for word, ids in words.items():
            check_word(word)
            if not 0 < len(ids) <= self.max_length - 2:
                raise InputError(
                    f"the word {word!r} has {len(ids)} vectors: a prompt has room for 1 to {self.max_length - 2}"
                )
        return replace(self, added=joined(self.added, words))

    def __call__(self, prompts: Sequence[str]) -> Int32[np.ndarray, "b n"]:
        """Ids of each prompt. One that is too long is cut, and a warning shows what it loses.

        Raises:
            InputError: for a prompt that is no text.
        """
        prompts = [_text(prompt) for prompt in prompts]
        for prompt in prompts:
            if lost := self.lost(prompt):
                warnings.warn(
                    f"the prompt is longer than {self.max_length - 2} tokens, the model will not see its end: {lost!r}",
                    stacklevel=2,
                )
        if not prompts:
            return np.zeros((0, self.max_length), np.int32)
        if self.added:
            return np.asarray([self.framed(ids[: self.max_length - 2]) for ids in self.words(prompts)], np.int32)
        encoded = self.backend(prompts, padding="max_length", max_length=self.max_length, truncation=True, **self._how)
        return np.asarray(encoded["input_ids"], np.int32)

    def words(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text by itself, however many, without those that begin, end and pad.

        Raises:
            InputError: for what is no text.
        """
        texts = [_text(text) for text in texts]
        if self.added:
            return [[id for id, _ in self._placed(text)] for text in texts]
        return self.backend(texts, add_special_tokens=False, verbose=False, **self._how)["input_ids"] if texts else []

    @property
    def _how(self) -> dict[str, bool]:
        """What the backend is told of how texts are read."""
        apart = self.pad_is_text and self.backend.pad_token_id != self.backend.eos_token_id
        return {"split_special_tokens": True} if apart else {}

    def _placed(self, text: str) -> list[tuple[int, int]]:
        """(id, where in the text it begins) of each."""
        found: list[tuple[int, int]] = []
        for start, piece, word in split(text, self.added):
            if word is not None:
                found += [(id, start) for id in self.added[word]]
                continue
            encoded = self.backend(
                piece, add_special_tokens=False, return_offsets_mapping=True, verbose=False, **self._how
            )
            found += [(id, start + at) for id, (at, _) in zip(encoded["input_ids"], encoded["offset_mapping"])]
        return found

    def framed(self, ids: Sequence[int]) -> list[int]:
        """``max_length`` ids of at most two fewer: what a call makes of the text that has them."""
        pad = [self.backend.pad_token_id] * (self.max_length - 2 - len(ids))
        return [self.backend.bos_token_id, *ids, self.backend.eos_token_id, *pad]

    @cached_property
    def vectors(self) -> dict[int, int]:
        """The first id of an added word -> how many it has, which belong together."""
        return {ids.start: len(ids) for ids in self.added.values()}

    @cached_property
    def comma(self) -> int | None:
        """The id of a comma; None in a vocabulary that has no such word."""
        return self.backend.get_vocab().get(",</w>")

    def lost(self, prompt: str) -> str:
        """The end of the prompt that does not fit, in the prompt's own spelling; empty where all of it fits."""
        prompt = _text(prompt)
        over = self._placed(prompt)[self.max_length - 2 :]
        return prompt[over[0][1] :] if over else ""

    def pieces(self, text: str) -> list[str]:
        """The entries of the vocabulary that text falls into; those that end a word end in ``</w>``."""
        ids = self.backend(_text(text), add_special_tokens=False, verbose=False)["input_ids"]
        special = set(self.backend.all_special_ids)
        return self.backend.convert_ids_to_tokens([i for i in ids if i not in special])

    def report(self, identifier: str) -> str:
        """One line that says into which tokens an identifier falls.

        Raises:
            InputError: if it falls into none, so that the model could not see it.
        """
        own = {word.casefold(): ids for word, ids in self.added.items()}.get(identifier.casefold())
        if own is not None:
            return f"identifier {identifier!r} is a new word of {len(own)} vector{'s' * (len(own) > 1)}"
        pieces = self.pieces(identifier)
        if not pieces:
            raise InputError(
                f"data.identifier = {identifier!r} is nothing to the tokenizer: choose a rare word like sks"
            )
        count = "1 token" if len(pieces) == 1 else f"{len(pieces)} tokens"
        return f"identifier {identifier!r} is {count}: {' '.join(pieces)}"


def _text(prompt: str) -> str:
    """The same text with one character for each pair of surrogates, as which some escapes spell an emoji.

    Raises:
        InputError: for half a pair, which is no character, or a text that is far too long.
    """
    check_length(prompt)
    try:
        return prompt.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise InputError(f"the prompt {prompt!r} has half a character (a lone surrogate): write it anew") from None


def load_tokenizer(folder: Path, *, max_length: int = 77) -> Tokenizer:
    """Read tokenizer.json, or vocab.json and merges.txt, and the special tokens if the folder names them.

    Args:
        folder: the model's ``tokenizer`` folder.
        max_length: the text encoder's ``max_position_embeddings``.

    Raises:
        InputError: if files are missing or broken.
    """
    if not (folder / "tokenizer.json").is_file():
        for name in ("vocab.json", "merges.txt"):
            if not (folder / name).is_file():
                raise InputError(f"{folder} has neither a tokenizer.json nor a {name}")
    for file in folder.iterdir():
        if file.suffix in (".json", ".txt") and file.is_file() and file.stat().st_size > LARGEST:
            raise InputError(f"{file} has more than {LARGEST} bytes: it is no file of a tokenizer")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # its advice to install PyTorch
    from transformers import CLIPTokenizer  # late: a second, and nobody needs it who does not tokenise

    if not (folder / "tokenizer.json").is_file():
        _check_merges(folder)
    try:
        backend = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
        tokenizer = Tokenizer(folder=folder, backend=backend, max_length=max_length)
        tokenizer(["a"])
    except Exception as error:  # the Rust library below raises bare Exception
        raise InputError(f"{folder} has broken tokenizer files: {error}") from error
    return tokenizer


def _check_merges(folder: Path) -> None:
    """Raise InputError if many entries of the vocabulary cannot be made: prompts would fall into letters."""
    try:
        merges = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        longer = {entry for entry in vocabulary if len(entry.removesuffix("</w>")) > 1}
    except (ValueError, AttributeError, TypeError, RecursionError):
        return  # the library says what is wrong with them
    made = {line.replace(" ", "") for line in merges}
    if len(longer - made) > len(longer) / 10 + 10:
        raise InputError(
            f"{folder}/merges.txt lacks {len(longer - made)} of the merges that vocab.json has entries of: it is "
            "incomplete, copy it again"
        )
