# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How much text a prompt may be: whatever reads one takes time and memory in proportion to it."""

from dreambooth_jax.errors import InputError

LONGEST = 50_000
"""Characters of a prompt: some 10,000 tokens, and far more than anyone writes."""


def check_length(text: str, *, name: str = "a prompt") -> None:
    """Raise InputError for a text that nobody wrote as a prompt."""
    if len(text) > LONGEST:
        raise InputError(
            f"{name} has {len(text)} characters, of which {LONGEST} may be: it begins with {text[:40]!r}; shorten it"
        )


def checked_prompts(prompts: list[str]) -> list[str]:
    """The prompts of a caller.

    Raises:
        InputError: if one is empty, or far too long.
    """
    for prompt in prompts:
        check_length(prompt)
    if any(not prompt.strip() for prompt in prompts):
        raise InputError("a prompt is empty: is a variable without a value? Leave it out")
    return prompts
