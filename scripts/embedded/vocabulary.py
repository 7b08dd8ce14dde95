# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A small CLIP tokenizer: byte pairs merged as the captions want it (Sennrich et al. 2016; Radford et al. 2021).

ids   256 bytes, the same 256 at the end of a word (</w>), one for each merge, <|startoftext|>, <|endoftext|>

A word that captions never use, such as sks, falls into letters. Captions spelt with some merges left out (BPE dropout,
Provilkov et al. 2020) are what teaches the letters something in the pretraining.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int32
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

START, END, SUFFIX = "<|startoftext|>", "<|endoftext|>", "</w>"
LENGTH = 77
_WORDS = Regex(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")


def _tokenizer(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(_WORDS, "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def train(captions: Sequence[str], folder: Path, *, size: int) -> None:
    """Write vocab.json, merges.txt and what transformers' ``CLIPTokenizer`` reads beside them.

    Args:
        captions: to learn from.
        folder: made if it is not there.
        size: at most so many entries; fewer where captions have no more pairs to merge.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = alphabet + [letter + SUFFIX for letter in alphabet]
    tokenizer = _tokenizer(models.BPE(end_of_word_suffix=SUFFIX))
    # the trainer counts only letters that it has seen
    trainer = trainers.BpeTrainer(vocab_size=size, end_of_word_suffix=SUFFIX, min_frequency=2, show_progress=False)
    tokenizer.train_from_iterator(captions, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"][: size - len(letters) - 2]
    entries = dict.fromkeys([*letters, *("".join(pair) for pair in merges), START, END])
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "vocab.json", {entry: i for i, entry in enumerate(entries)})
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    _write(folder / "special_tokens_map.json", special)
    _write(
        folder / "tokenizer_config.json",
        {**special, "do_lower_case": True, "model_max_length": LENGTH, "tokenizer_class": "CLIPTokenizer"},
    )


def _write(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def size(folder: Path) -> int:
    """Number of entries."""
    return len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))


def encode(
    captions: Sequence[str], folder: Path, *, respelt: int = 0, dropout: float = 0.3
) -> Int32[np.ndarray, "n 77"]:
    """Ids of captions, framed and padded as CLIP does it.

    Args:
        captions: any texts.
        folder: of the tokenizer's files.
        respelt: every so manieth caption leaves out merges; 0 is none.
        dropout: each merge with this chance.
    """
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    files = str(folder / "vocab.json"), str(folder / "merges.txt")
    spell, respell = (
        _tokenizer(models.BPE.from_file(*files, end_of_word_suffix=SUFFIX, dropout=chance))
        for chance in (None, dropout)
    )
    ids = np.full((len(captions), LENGTH), vocabulary[END], np.int32)
    ids[:, 0] = vocabulary[START]
    for i, caption in enumerate(captions):
        tokenizer = respell if respelt and i % respelt == 0 else spell
        pieces = tokenizer.encode(caption).ids[: LENGTH - 2]
        ids[i, 1 : 1 + len(pieces)] = pieces
    return ids
