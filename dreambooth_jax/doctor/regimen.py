# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How a run trains, as far as the doctor has something to say of it, and how the recipe that ships would."""

from dataclasses import dataclass
from functools import cache

from dreambooth_jax.config import Config, load_config

RECIPES = {
    "full": "sd15",
    "lora": "sd15_lora",
    "lidb": "sd15_hyper",
    "textual_inversion": "sd15_textual_inversion",
    "pivotal": "sd15_pivotal",
}
"""By kind of training, settings that ship and are usual for it."""


@dataclass(frozen=True, kw_only=True)
class Regimen:
    """Settings that decide how much is learnt.

    Attributes:
        kind: of training.
        optimizer: its name.
        steps: of the whole run.
        rate_key: setting of the learning rate.
        rate: its value.
        schedule: of it.
        encoder_stop: first step that no longer trains the text encoder, as in the settings.
        encoder_rate: of the text encoder.
        prior: λ.
    """

    kind: str
    optimizer: str
    steps: int
    rate_key: str
    rate: float
    schedule: str
    encoder_stop: int
    encoder_rate: float
    prior: float

    @property
    def of_words(self) -> bool:
        """Does it learn a new word, and nothing else?"""
        return self.kind == "textual_inversion"


def regimen_of(config: Config, *, prior: float) -> Regimen:
    """Of a run's settings.

    Args:
        config: the settings.
        prior: λ of the subject.
    """
    of_words = config.adapter.kind == "textual_inversion"
    own = config.text_encoder.learning_rate
    return Regimen(
        kind=config.adapter.kind,
        optimizer=config.optimizer.kind,
        steps=config.train.steps,
        rate_key="tokens.learning_rate" if of_words else "optimizer.learning_rate",
        rate=config.tokens.learning_rate if of_words else config.optimizer.learning_rate,
        schedule=config.optimizer.schedule,
        encoder_stop=config.text_encoder.stop,
        encoder_rate=config.optimizer.learning_rate if own is None else own,
        prior=prior,
    )


def recipe_for(regimen: Regimen, *, embedded: bool) -> Regimen | None:
    """What is usual for the same kind of training with the same optimizer; None if nothing is.

    Args:
        regimen: of a run.
        embedded: is it of the embedded model?
    """
    name = "quickstart" if embedded else RECIPES.get(regimen.kind)
    recipe = shipped(name) if name else None
    same = recipe and (recipe.kind, recipe.optimizer) == (regimen.kind, regimen.optimizer)
    return recipe if same else None


@cache
def shipped(name: str) -> Regimen:
    """Of settings that ship, by their name."""
    config = load_config(name, ["data.instance_images=photos", "data.class_noun=thing"])
    return regimen_of(config, prior=config.prior.weight)
