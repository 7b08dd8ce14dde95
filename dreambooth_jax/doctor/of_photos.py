# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What photos, class images and words show to be wrong, whatever the model draws.

Bounds of sharpness, likeness and place are such that of the DreamBooth data set's 30 subjects nothing is said but that
the four drawings of red_cartoon are alike; blurred by 0.5 % of their side, all of the 158 photos are found.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product

import numpy as np

from dreambooth_jax.config.tokens import KINDS
from dreambooth_jax.doctor.finding import Finding
from dreambooth_jax.doctor.patient import Patient
from dreambooth_jax.doctor.photo_facts import likeness
from dreambooth_jax.doctor.symptoms import HALF

FEWEST = 3
"""Photos of which something is said that is of all."""
BLURRED = 0.001
"""Sharpness of a photo out of focus: those of the data set have 0.0017 to 0.29, at most 0.0005 if they are blurred."""
TWINS, ALIKE = 0.97, 0.85
"""Correlation of two photos; mean of all pairs."""
CENTRED = 0.03
"""Distance of the middle of a photo's detail from its own, as a share of its side."""
TINY = 0.75
"""Of the pixels of training."""
MOST_PIECES = 3
"""Tokens of an identifier, in the paper."""
UNFIT = 0.001
"""Probability of a noun that fits no photo."""


def wrong_noun(patient: Patient) -> Iterator[Finding]:
    """What the class is called fits no photo: what the model knows of it is then no help, and is unlearnt."""
    naming = patient.looks.naming if patient.looks else None
    noun, key = patient.concept.class_noun, patient.concept.key
    if naming and naming.most < UNFIT and noun != naming.instead:
        evidence = (
            f"{noun!r} has at most {naming.most:.1g} probability for any photo, most look like {naming.instead!r}"
        )
        what = f"{noun!r} is not what the photos show"
        yield Finding("class_noun", what, (evidence,), f"{key}.class_noun={naming.instead}")


def twins(patient: Patient) -> Iterator[Finding]:
    """The same picture twice teaches its background."""
    pairs = zip(combinations(patient.photos, 2), _likeness(patient))
    found = [f"{a.name} and {b.name}" for (a, b), alike in pairs if alike > TWINS]
    if found:
        yield Finding("twins", "photos are nearly the same", (_some(found),), _photos(patient, "keep one of them"))


def all_alike(patient: Patient) -> Iterator[Finding]:
    """Only one pose, in one place: what is the subject's cannot be told from what is the place's."""
    pairs = _likeness(patient)
    if len(patient.photos) >= FEWEST and pairs.mean() > ALIKE:
        evidence = f"mean correlation of {len(pairs)} pairs {pairs.mean():.2f}"
        yield Finding("alike", "photos are all alike", (evidence,), _photos(patient, "other places and poses"))


def blurred(patient: Patient) -> Iterator[Finding]:
    """What is not sharp is learnt as it is."""
    found = [f"{one.name} ({one.facts.sharpness:.1g})" for one in patient.photos if one.facts.sharpness < BLURRED]
    if found:
        evidence = f"{_some(found)}; sharp photos have {BLURRED:g} and more"
        yield Finding("blurred", "photos are blurred", (evidence,), _photos(patient, "sharper ones"))


def tiny(patient: Patient) -> Iterator[Finding]:
    """Enlarged photos are blurred, too."""
    side = patient.side
    small = [one for one in patient.photos if min(one.width, one.height) < TINY * side]
    if small:
        evidence = f"{_some([f'{one.name} ({one.width}x{one.height})' for one in small])}; training has {side}"
        yield Finding("tiny", "photos are small", (evidence,), _photos(patient, "larger ones"))


def centred(patient: Patient) -> Iterator[Finding]:
    """The subject is learnt where it always is."""
    places = [place for one in patient.photos for place in one.facts.middle]
    if len(patient.photos) >= FEWEST and max(abs(place - 0.5) for place in places) < CENTRED:
        evidence = f"their detail is within {CENTRED:.0%} of the middle in all {len(patient.photos)}"
        change = _photos(patient, "less centred") if patient.crop == "random" else "data.crop=random"
        yield Finding("centred", "the subject is always in the middle", (evidence,), change)


def unnamed(patient: Patient) -> Iterator[Finding]:
    """Photos that are not called by the identifier teach it nothing. Runs of new words look to this themselves."""
    if patient.regimen.kind in KINDS:
        return
    identifier = patient.concept.identifier.strip()
    found = [f"{one.name} is {one.prompt!r}" for one in patient.photos if identifier not in one.prompt]
    if found:
        change = "write {identifier} into the captions and data.instance_prompt"
        yield Finding("unnamed", f"photos are not called {identifier!r}", (_some(found),), change)


def no_rare_word(patient: Patient) -> Iterator[Finding]:
    """The model knows it, or its tokens, from other pictures."""
    identifier, pieces = patient.concept.identifier, patient.pieces
    if len(pieces) > MOST_PIECES or (pieces and all(piece.common for piece in pieces)):
        count = "one common token" if len(pieces) == 1 else f"{len(pieces)} tokens"
        evidence = f"{identifier!r} is {count}: {' '.join(piece.text for piece in pieces)}"
        yield Finding(
            "identifier", "the identifier is no rare word", (evidence,), f"{patient.concept.key}.identifier=sks"
        )


def class_images(patient: Patient) -> Iterator[Finding]:
    """Class images that show the subject teach that the class is the subject."""
    found = [
        f"{image.name} is {photo.name}"
        for image, photo in product(patient.class_images, patient.photos)
        if image.facts.thumbnail @ photo.facts.thumbnail > TWINS
    ]
    looks = patient.looks
    if looks and looks.share(looks.class_images) > HALF:
        found.append(
            f"their likeness to the photos is {looks.class_images:.2f}, that of photos to each other "
            f"{looks.ceiling:.2f} ({looks.eye})"
        )
    if found:
        change = "prior.class_images: pictures of others of the class"
        yield Finding("class_images", "class images look like the subject already", (_some(found),), change)


PHOTOS: tuple[Callable[[Patient], Iterator[Finding]], ...] = (
    *(wrong_noun, twins, all_alike, blurred, tiny, centred, unnamed, no_rare_word, class_images),
)
"""A new one is a function and a line here."""


def _likeness(patient: Patient) -> np.ndarray:
    return likeness([one.facts for one in patient.photos])


def _photos(patient: Patient, change: str) -> str:
    return f"{patient.concept.key}.instance_images: {change}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
