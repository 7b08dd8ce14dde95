# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Which members share a compiled program: those whose settings differ in data alone.

Photos, texts, λ, learning rates, seeds and numbers of steps are arguments of a step. All other settings make shapes or
constants of the program, or say when a run does something, so that members who differ in one of them are apart.
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
DATA = RATES | {
    "run_dir",
    *(f"data.{name}" for name in ("instance_images", "identifier", "class_noun", "instance_prompt", "templates")),
    *(f"data.{name}" for name in ("use_captions", "tag_orders", "keep_tags", "caption_dropout", "dropout_prompt")),
    *(f"data.{name}" for name in ("crop", "flip", "colour", "unmasked_weight", "background")),
    *(f"prior.{name}" for name in ("prompts", "weight", "class_prompt", "class_images_prompt", "class_images")),
    *(f"prior.{name}" for name in ("num_images", "batch_size", "seed", *key_types(SamplingConfig))),
    *(f"tokens.{name}" for name in ("words", "init", "mean", "learning_rate")),
    "text_encoder.learning_rate",
    *(f"train.{name}" for name in ("steps", "seed")),
    *(f"validation.{name}" for name in ("images", "holdout")),
    *(f"samples.{name}" for name in ("prompts", "class_prompts")),
}
"""Settings that members of one program may differ in. Not text_encoder.start and stop, though a step has a stretch for
each member: of whole runs whose stretches differ it is not shown that each is what it is alone."""


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
    """Is there a program that trains several members like this one at once? Not where pictures have several sizes: each
    member's steps would have their own."""
    return config.adapter.kind in WITH_MEMBERS and config.data.buckets == 1


def program_of(config: Config) -> Hashable:
    """All that the program of a run depends on, and when the run does what: equal for members of one program."""
    settings = flat(to_dict(config))
    free = DATA - measured_keys(config)
    kept = tuple((key, repr(value)) for key, value in sorted(settings.items()) if key not in free)
    # without a prior there are no rows for it
    return kept, has_prior(config), len(config.tokens.words), bool(config.validation.is_wanted)


def measured_keys(config: Config) -> frozenset[str]:
    """Data that is a constant of the program after all, since an optimizer has its own use for it."""
    kind = KINDS[config.optimizer.kind]
    found = {"train.steps"} if kind.measured else set()
    return frozenset(found | RATES if kind.averages or kind.finds_rate else found)
