# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What pictures of a run show to be wrong, whatever the cause.

All bounds are shares of the way between two things that the same tower measures (the class before training and the
photos; one photo and the next), so that they mean the same for every tower. Half of the way is the bound wherever a
picture is one thing or the other.
"""

from collections.abc import Callable, Iterator

from dreambooth_jax.doctor.finding import Symptom
from dreambooth_jax.doctor.looks import Looks

HALF = 0.5
COPIED = 0.25
"""Share of the distance from a photo to the nearest other, within which a picture is no new one."""
GRAINY = 2.5
"""Times the usual grain, which is 0.002 to 0.29 for photos in 512 pixels, 0.1 for drawings in 64, 1.25 for noise."""
FADED = 0.4
"""Share of the contrast before training."""


def broken(looks: Looks) -> Iterator[Symptom]:
    """The course's fourth case: noise, or hardly anything."""
    if looks.grain > GRAINY * looks.usual_grain or looks.contrast < FADED:
        evidence = (
            f"finest detail is {looks.grain:.2g} of the contrast, usual is {looks.usual_grain:.2g}; contrast is "
            f"{looks.contrast:.0%} of what it was"
        )
        yield Symptom("broken", "pictures are noisy, or nearly empty", evidence)


def no_likeness(looks: Looks) -> Iterator[Symptom]:
    """The first case, and the fifth where nothing helps."""
    if looks.learnt < HALF:
        evidence = (
            f"likeness to the photos is {looks.subject:.2f}, that of the class before training "
            f"{looks.subject_before:.2f}, that of photos to each other {looks.ceiling:.2f} ({looks.eye})"
        )
        yield Symptom("no_likeness", "pictures do not look like the subject", evidence)


def copies(looks: Looks) -> Iterator[Symptom]:
    """The second case: the distance to the nearest photo against the spread of photos."""
    near, between = 1 - looks.nearest, 1 - looks.nearest_photo
    if near < COPIED * between:
        evidence = f"from a picture to the nearest photo {near:.3f}, from photo to photo {between:.3f} ({looks.eye})"
        yield Symptom("copies", "pictures copy the photos", evidence)


def one_scene(looks: Looks) -> Iterator[Symptom]:
    """The third case: the subject, or something else, but not where or how the prompt says."""
    if looks.obeyed < HALF * looks.obeyed_before:
        evidence = f"prompts are obeyed by {looks.obeyed:.2f}, before training by {looks.obeyed_before:.2f}"
        yield Symptom("one_scene", "pictures do not show the place or style that is asked for", evidence)


def leaks(looks: Looks) -> Iterator[Symptom]:
    """The class has become the subject."""
    if looks.leaked > HALF:
        evidence = (
            f"its likeness to the photos is {looks.class_after:.2f}, before training {looks.class_before:.2f}, that of "
            f"photos to each other {looks.ceiling:.2f} ({looks.eye})"
        )
        yield Symptom("leaks", "the class prompt draws the subject", evidence)


SYMPTOMS: tuple[Callable[[Looks], Iterator[Symptom]], ...] = (broken, no_likeness, copies, one_scene, leaks)
"""A new one is a function and a line here, and a line in ``causes.CAUSES``."""


def symptoms(looks: Looks) -> list[Symptom]:
    """All that there are. What is NaN shows nothing."""
    return [symptom for shows in SYMPTOMS for symptom in shows(looks)]
