# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a picture is called from visit to visit: one of a short, fixed list of texts, or nothing.

    caption "a, b, c, d" --keep 1 tag, 3 orders-->  "a, c, b, d"  "a, d, c, b"  "a, b, d, c"
    no caption           --templates------------->  "a photo of sks dog"  "a rendering of sks dog"  ...
    a share of all visits --drop-out------------->  ""  or the class prompt

All texts are known before the first step, so that their states are computed once and kept in a table; which one comes
is drawn at each visit from a name, so it depends on seed and step alone.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from dreambooth_jax.data import host_rng
from dreambooth_jax.data.sources import Photo

TRIES = 20
"""Orders that are drawn, for each that is wanted, until so many different ones are found."""


@dataclass(frozen=True, kw_only=True)
class Captions:
    """How pictures are called.

    Attributes:
        templates: prompts of pictures without a caption, fields filled in; empty for their own single prompt.
        orders: of a caption's tags, which are separated by commas; 0 leaves captions as they are.
        keep: first tags that stay where they are.
        dropout: share of visits at which a picture has the text ``dropped`` instead.
        dropped: the empty text, or the class prompt.
        seed: orders are drawn from it.
    """

    templates: tuple[str, ...] = ()
    orders: int = 0
    keep: int = 1
    dropout: float = 0.0
    dropped: str = ""
    seed: int = 0

    def texts(self, photo: Photo) -> list[str]:
        """All that a picture may be called; each once."""
        if not photo.has_caption:
            return list(dict.fromkeys(self.templates)) or [photo.prompt]
        tags = [tag.strip() for tag in photo.prompt.split(",") if tag.strip()]
        first, rest = tags[: self.keep], tags[self.keep :]
        if not self.orders or len(rest) < 2:
            return [photo.prompt]
        found: dict[str, None] = {}
        for i in range(TRIES * self.orders):  # of few tags there are fewer orders
            order = host_rng.permutation(len(rest), self.seed, "tags", photo.digest, i)
            found[", ".join([*first, *(rest[j] for j in order)])] = None
            if len(found) == self.orders:
                break
        return list(found)


ONE_EACH = Captions()
"""Pictures have one text each, their own or that of their collection."""


def tag_counts(captions: Iterable[str]) -> dict[str, int]:
    """How often captions have which tag, as sd-scripts count: what is between commas, in small letters."""
    tags = (tag.strip().lower() for caption in captions for tag in caption.split(","))
    return dict(Counter(tag for tag in tags if tag))


@dataclass(frozen=True, kw_only=True, eq=False)
class TextDraws:
    """Which text an example has at a visit.

    Attributes:
        choices: of each example, places of its texts in a table; what comes after the first ``counts`` means nothing.
        counts: how many each has.
        dropout: share of visits at which it has the text ``dropped`` instead.
        dropped: the place of that text in the table.
    """

    choices: Int[np.ndarray, "n k"]
    counts: Int[np.ndarray, "n"]
    dropout: float = 0.0
    dropped: int = 0

    def at(self, example: Int[np.ndarray, "b"], counter: Int[np.ndarray, "b"], *name: host_rng.Name) -> np.ndarray:
        """Places [b] in the table of these examples' texts.

        Args:
            example: their numbers.
            counter: their places in the stream's endless order, each of which has draws of its own.
            name: that draws are made from.
        """
        text = np.empty(len(example), np.int64)
        for row, (i, place) in enumerate(zip(example.tolist(), counter.tolist())):
            drop, choice = host_rng.uniform(2, *name, "texts", place)
            text[row] = self.dropped if drop < self.dropout else self.choices[i, int(choice * self.counts[i])]
        return text


def listed(texts: Sequence[Sequence[str]], captions: Captions) -> list[str]:
    """All texts of all examples one after the other, and behind them that of drop-out where there is some."""
    return [*(text for some in texts for text in some), *([captions.dropped] if captions.dropout else [])]


def draws_of(texts: Sequence[Sequence[str]], index: np.ndarray, *, dropout: float, dropped: int) -> TextDraws | None:
    """What is drawn of a table; None where every example has one text and keeps it.

    Args:
        texts: of each example.
        index: int [m], the place in the table of each of these texts, one after the other.
        dropout: share of visits with another text.
        dropped: its place.
    """
    if not dropout and all(len(some) == 1 for some in texts):
        return None
    counts = np.array([len(some) for some in texts], np.int64)
    choices = np.zeros((len(texts), counts.max()), np.int64)
    ends = np.cumsum(counts)
    for i, (end, count) in enumerate(zip(ends, counts)):
        choices[i, :count] = index[end - count : end]
    return TextDraws(choices=choices, counts=counts, dropout=dropout, dropped=dropped)
