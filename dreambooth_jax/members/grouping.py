# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Which members share a compiled program: those whose settings differ in data alone.

Photos, texts, λ, learning rates, seeds, numbers of steps and those that train a text encoder are arguments of a step.
All other settings make shapes or constants of the program, or say when a run does something, so that members who differ
in one of them are apart.
"""

from collections.abc import Hashable, Sequence

from dreambooth_jax.adapters.registry import WITH_MEMBERS
from dreambooth_jax.config import Config, SamplingConfig, to_dict
from dreambooth_jax.config.concepts import has_prior
from dreambooth_jax.config.parse import key_types
from dreambooth_jax.members.member import Member
from dreambooth_jax.training.optimizer_kinds import KINDS
from dreambooth_jax.training.resume import flat

Grouped = tuple[tuple[Member, ...], ...]

RATES = frozenset(f"optimizer.{name}" for name in ("learning_rate", "schedule", "cycles", "warmup_steps", "power"))
"""What a table of learning rates is made of."""
OWN_RATES = frozenset(("text_encoder.learning_rate", "tokens.learning_rate"))
"""Those of groups of what is trained, instead of the run's."""
STRETCH = frozenset(("text_encoder.start", "text_encoder.stop"))
"""When a text encoder is trained, where it is."""
DATA = (
    RATES
    | OWN_RATES
    | STRETCH
    | {
        "run_dir",
        *(f"data.{name}" for name in ("instance_images", "identifier", "class_noun", "instance_prompt", "templates")),
        *(f"data.{name}" for name in ("use_captions", "tag_orders", "keep_tags", "caption_dropout", "dropout_prompt")),
        *(f"data.{name}" for name in ("crop", "flip", "colour", "unmasked_weight", "background")),
        *(f"prior.{name}" for name in ("prompts", "weight", "class_prompt", "class_images_prompt", "class_images")),
        *(f"prior.{name}" for name in ("num_images", "batch_size", "seed", *key_types(SamplingConfig))),
        *(f"tokens.{name}" for name in ("words", "init", "mean")),
        *(f"train.{name}" for name in ("steps", "seed")),
        *(f"validation.{name}" for name in ("images", "holdout")),
        *(f"samples.{name}" for name in ("prompts", "class_prompts")),
    }
)
"""Settings that members of one program may differ in."""


def groups(members: Sequence[Member]) -> Grouped:
    """Members in groups that each share one program, both in the order in which they first come.

    Those of which no program trains several at once (full fine-tuning, with a copy of the weights each) are alone.
    """
    found: dict[Hashable, list[Member]] = {}
    for member in members:
        found.setdefault(program_of(member.config) if shares_a_program(member.config) else member.name, []).append(
            member
        )
    return tuple(map(tuple, found.values()))


def shares_a_program(config: Config) -> bool:
    """Is there a program that trains several members like this one at once?"""
    return not why_alone(config)


def why_alone(config: Config) -> str:
    """Why no program trains several members like this one at once; empty where one does."""
    if config.adapter.kind not in WITH_MEMBERS:
        return f"each has a copy of the weights of its own (adapter.kind={config.adapter.kind})"
    if config.data.buckets > 1:  # each member's steps would have their own
        return f"pictures of several sizes make steps of several shapes (data.buckets={config.data.buckets})"
    return ""


def program_of(config: Config) -> Hashable:
    """All that the program of a run depends on, and when the run does what: equal for members of one program."""
    settings = flat(to_dict(config))
    free = DATA - fixed_keys(config)
    kept = tuple((key, repr(value)) for key, value in sorted(settings.items()) if key not in free)
    # without a prior there are no rows for it, and what is never trained of a text encoder has no place in the state
    trained = has_prior(config), bool(config.text_encoder.stop)
    return kept, *trained, len(config.tokens.words), bool(config.validation.is_wanted)


def fixed_keys(config: Config) -> frozenset[str]:
    """Data that is a constant of the program after all."""
    kind = KINDS[config.optimizer.kind]
    found: frozenset[str] = frozenset()
    if kind.measured or kind.finds_rate or kind.averages:  # its state has its own use for the stretch or the rates
        found |= STRETCH
    if kind.measured or kind.finds_rate:
        found |= {"train.steps"}
    if kind.averages or kind.finds_rate:
        found |= RATES
    if kind.finds_rate:
        found |= OWN_RATES
    if config.adapter.dropout:  # nothing drops out of a text encoder at rest, which is run where another's is trained
        found |= STRETCH
    return found
