# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Folders of members' class images: those that are made in one way are in one, which is called after that way alone.

    class_images/a_photo_of_a_dog/              as a setting says that nobody changed
    class_images/a_photo_of_a_dog-1f00ab42/     with another seed, say, or "A photo of a dog!"

So a folder holds the same pictures whatever else is trained beside its members, before or after.
"""

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from dreambooth_jax.config import Config, DataConfig, PriorConfig
from dreambooth_jax.config.concepts import concepts_of, makes_class_images
from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.data.sources import is_picture
from dreambooth_jax.errors import InputError
from dreambooth_jax.members.member import Member
from dreambooth_jax.paths import at_home

LONGEST = 60
"""Signs of the prompt in a folder's name."""


class _Recipe(NamedTuple):
    """What class images are made with; ``prompt`` is empty where none are made: real ones are one collection."""

    prompt: str
    how: str
    model: str

    def folder(self, *, with_model: bool) -> str:
        """Its name: the prompt in words, and of all that these do not say a digest."""
        if not self.prompt:
            return ""
        words = "_".join(re.findall(r"[^\W_]+", self.prompt.lower()))
        unsaid = [self.prompt if words.replace("_", " ") != self.prompt or len(words) > LONGEST else "", self.how]
        unsaid += [self.model] if with_model else []
        digest = f"{zlib.crc32(repr(unsaid).encode()):08x}" if any(unsaid) else ""
        return "-".join(filter(None, [words[:LONGEST], digest]))


def with_shared_class_images(members: Sequence[Member], *, folder: Path) -> tuple[Member, ...]:
    """Members whose class images are made in one way have them in one folder, in ``class_images`` of the set's unless
    told otherwise. Subjects of one class share them, and so do all rates of a sweep.

    Raises:
        InputError: if a folder that a setting names has pictures, and members whose class images are made in several
            ways: which of them they are for is not known.
    """
    makers = {
        one.name: one.config for one in members if not one.config.data.concepts and makes_class_images(one.config)
    }
    recipes = {name: _recipe(config) for name, config in makers.items()}
    several_models = len({one.model for one in recipes.values()}) > 1
    names = {name: recipe.folder(with_model=several_models) for name, recipe in recipes.items()}
    places: dict[str, str] = {}
    for own in {config.prior.class_images for config in makers.values()}:
        sharers = {name: names[name] for name, config in makers.items() if config.prior.class_images == own}
        places |= (
            _within(own, sharers) if own else {name: str(folder / "class_images" / sharers[name]) for name in sharers}
        )
    return tuple(_moved(member, places[member.name]) if member.name in places else member for member in members)


def _within(own: str, names: Mapping[str, str]) -> dict[str, str]:
    """Of each member the folder, where the setting names one: that one, unless there are several kinds of pictures."""
    kinds = list(dict.fromkeys(names.values()))
    if len(kinds) == 1:
        return dict.fromkeys(names, own)
    place = at_home(own)
    if "" not in kinds and place.is_dir() and any(map(is_picture, place.iterdir())):
        raise InputError(
            f"prior.class_images={own} holds pictures, but members have {len(kinds)} kinds of class images: move them "
            f"into the folder of their kind, {' or '.join(str(Path(own) / kind) for kind in kinds[:4])}"
        )
    return {name: str(Path(own) / kind) for name, kind in names.items()}


def _moved(member: Member, place: str) -> Member:
    return Member(
        name=member.name, config=replace(member.config, prior=replace(member.config.prior, class_images=place))
    )


def _recipe(config: Config) -> _Recipe:
    """What a member's class images are made with."""
    (concept, *_), prior = concepts_of(config), config.prior
    if not prior.num_images:
        return _Recipe("", "", "")
    subject = Subject(identifier=concept.identifier, class_noun=concept.class_noun)
    own = _how(prior, config.data)
    usual = _how(PriorConfig(), DataConfig())
    changed = {name: value for name, value in own.items() if value != usual[name]}
    return _Recipe(
        prompt=subject.fill(concept.class_images_prompt, syntax=prior.prompt_syntax),
        how=repr(sorted(changed.items())) if changed else "",
        model=repr(config.model),
    )


def _how(prior: PriorConfig, data: DataConfig) -> dict[str, Any]:
    return {**asdict(prior.sampling(size=data.size)), "seed": prior.seed}
