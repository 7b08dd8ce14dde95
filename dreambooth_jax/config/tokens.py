# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Settings of new words."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

from dreambooth_jax.config.setting import Settings, setting, shown

KINDS = ("textual_inversion", "pivotal", "custom_diffusion_words")
"""Kinds of adapters that learn words."""


@dataclass(frozen=True, kw_only=True)
class TokensConfig(Settings):
    """New words that are learned, with adapter.kind=textual_inversion, pivotal or custom_diffusion_words."""

    words: tuple[str, ...] = ()
    """The words, which prompts must have; by default the identifier of each subject."""
    vectors: int = setting(1, at_least=1, at_most=75)
    """Vectors of each word: more hold more of the subject, and take as many tokens' room in prompts."""
    init: tuple[str, ...] = ()
    """What each word is at first: tokens of a text, or "" for random vectors; by default the subject's class_noun."""
    mean: bool = False
    """Begin each vector with the mean of all tokens of its init; otherwise these are one, or as many as vectors."""
    learning_rate: float = setting(5e-4, at_least=0)
    """Peak learning rate of the vectors."""
    start: int = setting(0, at_least=0)
    """First step that trains them."""
    stop: int = setting(-1, at_least=-1)
    """First step that no longer does; -1 trains them to the end."""
    alone: int = setting(0, at_least=0)
    """Steps at the beginning in which nothing else is trained: the first part of pivotal tuning."""
    norm: Literal["free", "initial", "table"] = "free"
    """Length of the vectors: free, kept as it is at first, or kept at the median of the vocabulary's."""

    def stretch(self, steps: int) -> tuple[int, int]:
        """In a run of so many steps, the first that trains them and the first that no longer does."""
        return self.start, steps if self.stop == -1 else min(self.stop, steps)


def token_problems(
    tokens: TokensConfig, *, kind: str, steps: int, prior_weight: float, text_encoder_stop: int, subjects: int
) -> Iterator[str]:
    """What does not go together, one line each.

    Args:
        tokens: the settings.
        kind: of the adapter.
        steps: of the run.
        prior_weight: of class images.
        text_encoder_stop: where the text encoder is no longer trained.
        subjects: how many there are.
    """
    if kind not in KINDS:
        for field in fields(tokens):
            value = getattr(tokens, field.name)
            if value != field.default:
                yield (
                    f"tokens.{field.name} is {shown(value)}, but adapter.kind={kind} learns no words: set "
                    f"adapter.kind={KINDS[0]} or {KINDS[1]}, or leave it out"
                )
        return
    if not tokens.learning_rate:
        yield "tokens.learning_rate is 0, at which words learn nothing: set a rate above 0"
    start, stop = tokens.stretch(steps)
    if start >= stop:
        yield f"tokens.start {start} is not before tokens.stop {tokens.stop} and the end, train.steps {steps}"
    count = len(tokens.words) or subjects
    if tokens.init and len(tokens.init) not in (1, count):
        yield f"tokens.init has {len(tokens.init)} texts for {count} words: give one, or one for each"
    if kind == "textual_inversion":
        if tokens.alone:
            yield f"tokens.alone is {tokens.alone}, but words are all that is trained: leave it out"
        if text_encoder_stop:
            yield f"text_encoder.stop is {text_encoder_stop}, but words are all that is trained: leave it out"
        if prior_weight:
            yield (
                f"prior.weight is {prior_weight:g}, but class images, which are called without the new word, teach it "
                "nothing: set prior.weight=0"
            )
    elif tokens.alone >= steps:
        yield f"tokens.alone is {tokens.alone}, but the run has {steps} steps: nothing else would be trained"
