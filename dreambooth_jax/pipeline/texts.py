# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Prompts of a call -> the fields of ``Rows`` that hold them.

Plain prompts are token ids, cut at 77. Prompts in A1111's syntax are several texts in the course of a run, of several
chunks of weighted tokens each; where all of them are one text of one chunk without weights, they are token ids, too,
and the program is the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from dreambooth_jax.data.tokenizer import Tokenizer
from dreambooth_jax.pipeline.generate import Rows
from dreambooth_jax.pipeline.request import Request
from dreambooth_jax.prompts.chunks import Chunks, pad_chunks, read_chunks
from dreambooth_jax.prompts.editing import timeline
from dreambooth_jax.prompts.wildcards import Side, draw

SIDES: dict[str, Side] = {"ids": "prompt", "negative_ids": "negative"}
"""Fields of ``Rows``, and what they are of."""
PROMPTS, NEGATIVES = SIDES


class Told(NamedTuple):
    """What one side of guidance is told in a run.

    Attributes:
        texts: for each text encoder all texts, in chunks.
        of_step: for each step which of them.
    """

    texts: Mapping[str, list[Chunks]]
    of_step: tuple[int, ...]

    @property
    def length(self) -> int:
        """Chunks of the longest text."""
        return max(len(chunks.ids) for texts in self.texts.values() for chunks in texts)


class Texts(NamedTuple):
    """What all pictures are told.

    Attributes:
        fields: of ``Rows``.
        lengths: chunks that each picture needs, of those that there are.
        negatives: the negative prompts, without wildcards.
    """

    fields: dict[str, Any]
    lengths: Int[np.ndarray, "b"]
    negatives: Sequence[str]


def read_texts(
    request: Request,
    tokenizers: Mapping[str, Tokenizer],
    *,
    steps: Float[np.ndarray, "rows"],
    with_guidance: bool,
    passed: int | None = None,
) -> Texts:
    """What the pictures of a request are told.

    Args:
        request: prompts, and how they are read.
        tokenizers: of each text encoder.
        steps: for each row of the sampler's table the step, from 0, that it belongs to.
        with_guidance: without it negative prompts are not read.
        passed: steps of the first pass, in a second one.

    Raises:
        InputError: for a prompt that is too long, or changes too often.
    """
    count, sampling = len(request.prompts), request.sampling
    as_text = sampling.profile in ("a1111", "comfy")
    tokenizers = {name: replace(one, pad_is_text=as_text) for name, one in tokenizers.items()}
    prompts = {PROMPTS: request.prompts, NEGATIVES: request.negative_prompts}
    if sampling.prompt_syntax == "plain":
        ids = {side: {name: read(texts) for name, read in tokenizers.items()} for side, texts in prompts.items()}
        return Texts(ids, np.ones(count, int), request.negative_prompts)
    if not with_guidance:
        prompts[NEGATIVES] = [""] * count
    prompts = {side: _drawn(texts, request, SIDES[side]) for side, texts in prompts.items()}
    number = 1 + int(steps.max())
    seen = {text: _read(text, tokenizers, number, passed) for text in {*prompts[PROMPTS], *prompts[NEGATIVES]}}
    told = {side: [seen[text] for text in texts] for side, texts in prompts.items()}
    lengths = np.asarray([max(one.length for one in both) for both in zip(*told.values())])
    most = max(len(set(one.of_step)) for one in seen.values())
    stacked = {side: _stacked(some, tokenizers, most, int(lengths.max())) for side, some in told.items()}
    ids, weights = ({side: arrays[i] for side, arrays in stacked.items()} for i in range(2))
    if lengths.max() == most == 1 and all((leaf == 1).all() for leaf in jax.tree.leaves(weights)):
        return Texts(jax.tree.map(lambda leaf: leaf[:, 0, 0], ids), lengths, prompts[NEGATIVES])
    late = sampling.profile == "a1111"
    choice = np.stack([_choices(some, steps, late=late) for some in told.values()], axis=1) if most > 1 else None
    return Texts(
        {**ids, "token_weights": weights[PROMPTS], "negative_token_weights": weights[NEGATIVES], "choice": choice},
        lengths,
        prompts[NEGATIVES],
    )


def _drawn(prompts: Sequence[str], request: Request, side: Side) -> list[str]:
    """Without wildcards."""
    folder = request.sampling.wildcards
    return [draw(prompt, seed=seed, folder=folder, side=side) for prompt, seed in zip(prompts, request.seeds)]


def _read(prompt: str, tokenizers: Mapping[str, Tokenizer], steps: int, passed: int | None) -> Told:
    texts, of_step = timeline(prompt, steps, passed=passed)
    return Told({name: [read_chunks(text, one) for text in texts] for name, one in tokenizers.items()}, of_step)


def _stacked(
    told: Sequence[Told], tokenizers: Mapping[str, Tokenizer], texts: int, length: int
) -> tuple[dict[str, Int[np.ndarray, "b v k s"]], dict[str, Float[np.ndarray, "b v k s"]]]:
    """(ids, weights) for each text encoder, of v texts, where a picture has fewer its first again, of k chunks."""
    ids, weights = {}, {}
    for name, tokenizer in tokenizers.items():
        rows = [one.texts[name] + one.texts[name][:1] * (texts - len(one.texts[name])) for one in told]
        padded = [[pad_chunks(chunks, length, tokenizer) for chunks in row] for row in rows]
        ids[name], weights[name] = (np.stack([[chunks[i] for chunks in row] for row in padded]) for i in range(2))
    return ids, weights


def _choices(told: Sequence[Told], steps: Float[np.ndarray, "rows"], *, late: bool) -> Int[np.ndarray, "b rows"]:
    """Which text each row of the table is for. A1111 itself (``late``) counts the first step twice."""
    at = np.clip(steps.astype(int) - late, 0, len(told[0].of_step) - 1)
    return np.stack([np.asarray(one.of_step, np.int32)[at] for one in told])


def by_length(rows: Rows, lengths: Int[np.ndarray, "b"]) -> Iterator[tuple[Int[np.ndarray, "n"], Rows]]:
    """(numbers, rows) of pictures that need as many chunks each.

    More chunks than it needs would change a picture, because of the longer prompt of another.
    """
    for length in np.unique(lengths):
        numbers = np.flatnonzero(lengths == length)
        some = jax.tree.map(itemgetter(numbers), rows)
        names = (*SIDES, "token_weights", "negative_token_weights")
        first = itemgetter((slice(None), slice(None), slice(length)))
        yield numbers, some._replace(**{name: jax.tree.map(first, getattr(some, name)) for name in names})
