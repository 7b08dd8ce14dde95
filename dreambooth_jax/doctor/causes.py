# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What settings are far from those of the recipe, and which of them explains a symptom.

Recipes of one kind that people publish lie within a factor of about five of each other in rate times steps: the paper's
5e-6 and 1000 steps, the founding course's 1e-6 and 1600, LoRA's 1e-4 and 500 to 3000. So a setting that is half of an
order of magnitude off may be the cause of a symptom, and one that is most of an order off is told without any.
"""

from collections.abc import Callable, Mapping, Sequence

from dreambooth_jax.doctor.finding import Finding
from dreambooth_jax.doctor.patient import Patient
from dreambooth_jax.doctor.regimen import Regimen

SUSPECT = 10**0.5
"""Times the recipe's, from which a setting explains a symptom."""
FAR = 8.0
"""Times the recipe's, from which it is told by itself."""
FEWEST = 3
"""Photos, in the paper."""

Cause = Callable[[Patient, float], Finding | None]
"""(patient, times the recipe's) -> the finding, if a setting is so far off."""


def few_photos(patient: Patient, bound: float) -> Finding | None:
    """Not even three."""
    del bound
    count = len(patient.photos)
    if count >= FEWEST:
        return None
    evidence = f"{count} photo{'s' if count > 1 else ''}; three to six are usual"
    change = f"{patient.concept.key}.instance_images: more photos"
    return Finding("few_photos", "there are too few photos", (evidence,), change)


def unfinished(patient: Patient, bound: float) -> Finding | None:
    """It is not yet where its settings take it."""
    del bound
    if not patient.unfinished:
        return None
    evidence = f"{patient.steps} of {patient.regimen.steps} steps"
    return Finding("unfinished", "the run is not at its end", (evidence,), "train further: the same command goes on")


def rate_too_high(patient: Patient, bound: float) -> Finding | None:
    """By itself, however many steps there are."""
    own, recipe = patient.regimen, patient.recipe
    if patient.rate < bound or not recipe:
        return None
    evidence = f"{own.rate_key}={own.rate:g}, usual is {recipe.rate:g}"
    return Finding("rate_too_high", "the learning rate is too high", (evidence,), f"{own.rate_key}={recipe.rate:g}")


def too_long(patient: Patient, bound: float) -> Finding | None:
    """Steps times rate; if steps are more to blame than rate."""
    recipe = patient.recipe
    if not recipe or patient.longer * patient.rate < bound or patient.longer < patient.rate:
        return None
    return Finding("too_long", "training is too long", (_dose(patient, recipe),), f"train.steps={recipe.steps}")


def too_short(patient: Patient, bound: float) -> Finding | None:
    """Steps times rate; if steps are more to blame than rate."""
    recipe = patient.recipe
    if not recipe or patient.shorter * patient.rate * bound > 1 or patient.shorter > patient.rate:
        return None
    return Finding("too_short", "training is too short", (_dose(patient, recipe),), f"train.steps={recipe.steps}")


def rate_too_low(patient: Patient, bound: float) -> Finding | None:
    """And steps do not make up for it."""
    recipe = patient.recipe
    if not recipe or patient.shorter * patient.rate * bound > 1 or patient.shorter <= patient.rate:
        return None
    change = f"{patient.regimen.rate_key}={recipe.rate:g}"
    return Finding("rate_too_low", "the learning rate is too low", (_dose(patient, recipe),), change)


def encoder_rate_too_high(patient: Patient, bound: float) -> Finding | None:
    """The text encoder's, where it is higher than the denoiser's: words are forgotten sooner than pictures."""
    own, recipe = patient.regimen, patient.recipe
    if not recipe or not own.encoder_stop or own.encoder_rate <= own.rate:
        return None
    if own.encoder_rate < bound * recipe.encoder_rate:
        return None
    usual = recipe.encoder_rate
    evidence = f"text_encoder.learning_rate={own.encoder_rate:g}, usual is {usual:g}"
    what = "the text encoder's learning rate is too high"
    return Finding("encoder_rate_too_high", what, (evidence,), f"text_encoder.learning_rate={usual:g}")


def encoder_rests(patient: Patient, bound: float) -> Finding | None:
    """Where the recipe trains it."""
    del bound
    recipe = patient.recipe
    if not recipe or not recipe.encoder_stop or patient.regimen.encoder_stop:
        return None
    change = f"text_encoder.stop={recipe.encoder_stop}"
    evidence = f"text_encoder.stop=0; usual is {recipe.encoder_stop}"
    return Finding("encoder_rests", "the text encoder is not trained", (evidence,), change)


def no_prior(patient: Patient, bound: float) -> Finding | None:
    """Nothing keeps the class as it was. A new word alone does not change it."""
    weight = patient.regimen.prior
    if patient.regimen.of_words or weight * bound > 1:
        return None
    key = _weight_key(patient)
    evidence = f"{key}={weight:g}; usual is 1"
    return Finding("no_prior", "nothing keeps the class as it was", (evidence,), f"{key}=1")


def strong_prior(patient: Patient, bound: float) -> Finding | None:
    """Class images drown the subject."""
    weight = patient.regimen.prior
    if weight < bound:
        return None
    key = _weight_key(patient)
    evidence = f"{key}={weight:g}; usual is 1"
    return Finding("strong_prior", "the class counts for far more than the subject", (evidence,), f"{key}=1")


CAUSES: Mapping[str, Sequence[Cause]] = {
    "broken": (rate_too_high, encoder_rate_too_high, too_long),
    "no_likeness": (
        rate_too_high,
        unfinished,
        too_short,
        rate_too_low,
        strong_prior,
        few_photos,
        too_long,
        encoder_rests,
    ),
    "copies": (few_photos, rate_too_high, too_long, no_prior),
    "one_scene": (rate_too_high, encoder_rate_too_high, few_photos, too_long, too_short, rate_too_low),
    "leaks": (no_prior, rate_too_high, encoder_rate_too_high, too_long),
}
"""What may explain each symptom; the first that is far enough off does."""
ALONE: Sequence[Cause] = (
    *(few_photos, rate_too_high, encoder_rate_too_high, too_long, too_short, rate_too_low),
    strong_prior,
)
"""What is told without a symptom."""


def _weight_key(patient: Patient) -> str:
    """The setting of λ: of several subjects each has its own."""
    return f"{patient.concept.key}.weight" if patient.concept.name else "prior.weight"


def _dose(patient: Patient, recipe: Regimen) -> str:
    own = patient.regimen
    return (
        f"train.steps={own.steps}, {own.steps / len(patient.photos):.3g} for each photo, at "
        f"{own.rate_key}={own.rate:g}; usual are {recipe.steps} at {recipe.rate:g}"
    )
