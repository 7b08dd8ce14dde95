# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What streams draw from, put together: moments of photos, and states or ids of all that they may be called."""

from collections.abc import Sequence
from itertools import chain

from dreambooth_jax.data.captions import Captions, draws_of, listed
from dreambooth_jax.data.examples import ExampleTable
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.prepare.cache import Examples, text_table
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
        tables.append(
            ExampleTable(mean=mean, logvar=logvar, weights=some.weights, text=texts, text_index=starts, draws=draws)
        )
    return tables
