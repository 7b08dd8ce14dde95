# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What runs are made from, by what its files hold now. What several runs share is looked at once."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dreambooth_jax.config import Config
from dreambooth_jax.pipeline.load import source_of
from dreambooth_jax.prepare.begun import BegunRun
from dreambooth_jax.prepare.class_photos import ReadClasses, class_images_there
from dreambooth_jax.prepare.prepared import read_own_pictures
from dreambooth_jax.weights.fingerprint import Identity
from dreambooth_jax.weights.identity import identify


@dataclass(frozen=True, kw_only=True, eq=False)
class Fingerprints:
    """Of models and photos, as they are when they are first asked for.

    Attributes:
        known_models, known_pictures, known_classes: what was found, by the settings that say what is read.
    """

    known_models: dict[str, Identity] = field(default_factory=dict)
    known_pictures: dict[str, Mapping[str, str]] = field(default_factory=dict)
    known_classes: ReadClasses = field(default_factory=dict)

    def model(self, config: Config) -> Identity:
        """Which one a run's model is; its weights are not read into memory.

        Raises:
            InputError: if there is none.
        """
        model = config.model
        if repr(model) not in self.known_models:
            self.known_models[repr(model)] = identify(
                source_of(model.path),
                vae=None if model.vae is None else source_of(model.vae),
                unet=None if model.unet is None else source_of(model.unet),
                revision=model.revision,
                variant=model.variant,
                tokenizer=model.tokenizer,
                prediction_type=model.prediction_type,
            )
        return self.known_models[repr(model)]

    def pictures(self, config: Config) -> Mapping[str, str]:
        """Of a run's photos, and of pictures to validate with.

        Raises:
            InputError: if they cannot be read.
        """
        said = repr((config.data, config.validation))
        if said not in self.known_pictures:
            self.known_pictures[said] = read_own_pictures(config, BegunRun(meta=None)).fingerprints
        return self.known_pictures[said]

    def all_pictures(self, config: Config, begun: BegunRun) -> Mapping[str, str]:
        """Of a run that has begun with them class images, too. Those that are missing are not: whoever has ended needs
        them no more, and whoever goes on makes the same again.

        Raises:
            InputError: if pictures cannot be read.
        """
        own, known = self.pictures(config), begun.class_images
        there = class_images_there(config, begun_with=known, read=self.known_classes) if known else ""
        return {**own, "prior": there} if there else own
