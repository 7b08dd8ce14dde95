# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What streams draw from, put together: moments of photos, and states or ids of all that they may be called."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from dreambooth_jax.data.captions import Captions, draws_of, listed
from dreambooth_jax.data.examples import ExampleTable
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.prepare.cache import Examples, text_table
from dreambooth_jax.prepare.lessons import Lessons
from dreambooth_jax.trees import Tree


def example_tables(
    pipe: Pipeline, examples: Sequence[Examples], captions: Captions, *, params: Tree, encode: bool
) -> list[ExampleTable]:
    """A table for each of some collections of photos, such as one for each size; they share their texts.

    Args:
        pipe: tokenizers and text encoders.
        examples: photos, with the moments of their latents.
        captions: what they are called.
        params: the text encoders' weights to use.
        encode: hold states of texts, for text encoders that rest; else token ids.
    """
    called = [[captions.texts(photo) for photo in some.photos] for some in examples]
    texts, index = text_table(pipe, listed([*chain(*called)], captions), params=params, encode=encode)
    tables, first = [], 0
    for some, own in zip(examples, called):
        count = sum(len(one) for one in own)
        places = index[first : first + count]
        first += count
        draws = draws_of(own, places, dropout=captions.dropout, dropped=int(index[-1]))
        starts = places if draws is None else draws.choices[:, 0]
        mean, logvar = some.moments
        own_weights = np.array([photo.weight for photo in some.photos], np.float32)
        tables.append(
            ExampleTable(
                mean=mean,
                logvar=logvar,
                weights=some.weights,
                example_weights=None if (own_weights == 1).all() else own_weights,
                sizes=some.sizes,
                text=texts,
                text_index=starts,
                draws=draws,
            )
        )
    return tables


def lesson_tables(
    pipe: Pipeline, examples: Sequence[Examples], lessons: Lessons, *, params: Tree, encode: bool
) -> list[ExampleTable]:
    """Photos with what a teacher is asked about them, and with its own states of the texts. Masks and weights are the
    subject's: of these all positions count, and all photos alike."""
    untitled = [
        replace(some, photos=[replace(photo, has_caption=False, weight=1.0) for photo in some.photos])
        for some in examples
    ]
    tables = example_tables(pipe, untitled, lessons.captions, params=params, encode=encode)
    return [
        replace(
            table,
            text={**table.text, **lessons.texts},
            weights=None if table.weights is None else np.broadcast_to(np.float32(1), table.weights.shape),
        )
        for table in tables
    ]


def without_lessons(tables: Sequence[ExampleTable], lessons: Lessons | None) -> list[ExampleTable]:
    """Tables whose rows have the entries that lessons have, but nothing in them: a batch holds rows of both."""
    if lessons is None:
        return list(tables)

    def nothing(table: ExampleTable) -> dict[str, np.ndarray]:
        count = len(next(iter(table.text.values())))
        return {name: np.broadcast_to(np.float32(0), (count, *rows.shape[1:])) for name, rows in lessons.texts.items()}

    return [replace(table, text={**table.text, **nothing(table)}) for table in tables]
