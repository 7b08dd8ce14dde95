# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Everything before the first step: read, check, make class images, encode.

    config -> photos -> model -> does it fit an earlier checkpoint? -> class images -> latents

Whatever can be wrong is found before anything is compiled, and what is made is on disk and not made again.
Several processes first make sure that they mean the same run, then share out what takes long.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from dreambooth_jax.config import Config
from dreambooth_jax.config.concepts import Concept, concepts_of
from dreambooth_jax.data.captions import Captions
from dreambooth_jax.data.sources import Photo
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.prepare.begun import BegunRun, begun_run
from dreambooth_jax.prepare.cache import Encoder, Examples
from dreambooth_jax.prepare.class_photos import ReadClasses, class_folders, photos_of_classes
from dreambooth_jax.prepare.held_out import split_photos
from dreambooth_jax.prepare.lessons import Lessons, lessons_of
from dreambooth_jax.prepare.model import load_model
from dreambooth_jax.prepare.multihost import check_hosts, check_same
from dreambooth_jax.prepare.photos import captions_of, digest, read_instance_photos
from dreambooth_jax.prepare.words import check_used, taught
from dreambooth_jax.runs import RunFolder, save_settings
from dreambooth_jax.training.interrupt import Interrupt
from dreambooth_jax.training.parallel import Mapper
from dreambooth_jax.training.parallel.drawing import for_drawing


@dataclass(frozen=True, kw_only=True)
class PreparedConcept:
    """A subject, ready to be learned.

    Attributes:
        concept: its words and weights.
        instance: its photos, those of each size together.
        prior: pictures of its class, or None without prior preservation.
        captions: how its photos are called.
        held_out: pictures to validate with.
        lessons: of the teacher, if there is one, in the place of ``prior``.
    """

    concept: Concept
    instance: Sequence[Examples]
    prior: Examples | None
    captions: Captions
    lessons: Lessons | None = None
    held_out: Sequence[Examples] = ()

    @property
    def n_photos(self) -> int:
        """Photos of the subject, of all sizes."""
        return sum(len(some.photos) for some in self.instance)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What is there before the first step.

    Attributes:
        pipe: the pretrained model.
        concepts: the subjects and their classes.
        first_step: steps that a checkpoint already has.
        fingerprints: of model and pictures, kept in every checkpoint.
    """

    pipe: Pipeline
    concepts: Sequence[PreparedConcept]
    first_step: int
    fingerprints: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class OwnPictures:
    """The pictures of a run's subjects, which are read before its model is. All by the names of subjects.

    Attributes:
        photos: all that teach the subject.
        parts: photos to train on, and pictures to validate with.
        fingerprints: of them.
        begun: the run so far.
    """

    photos: Mapping[str, Sequence[Photo]]
    parts: Mapping[str, tuple[Sequence[Photo], Sequence[Photo]]]
    fingerprints: Mapping[str, str]
    begun: BegunRun


@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """What was read and encoded before, and is the same for the next run of the same model in this process.

    Attributes:
        class_images: pictures of classes.
        examples: encoded ones.
    """

    class_images: ReadClasses = field(default_factory=dict)
    examples: dict[Any, Examples] = field(default_factory=dict)


def read_own_pictures(config: Config, begun: BegunRun) -> OwnPictures:
    """Read the photos of a run's subjects.

    Args:
        config: of the run.
        begun: the run so far.
    """
    concepts = concepts_of(config)
    photos = {one.name: read_instance_photos(one, config.data) for one in concepts}
    fingerprints = {"instance": digest(chain(*photos.values()))}
    parts = {one.name: split_photos(config, one, photos[one.name]) for one in concepts}
    if config.validation.images:
        fingerprints["validation"] = digest(chain(*(held for _, held in parts.values())))
    return OwnPictures(photos=photos, parts=parts, fingerprints=fingerprints, begun=begun)


def prepare(
    config: Config,
    folder: RunFolder,
    interrupt: Interrupt,
    mapper: Mapper,
    *,
    before_loading: Callable[[], None] = lambda: None,
) -> Prepared | None:
    """Read and check everything, then make class images and latents. None if a signal broke that off.

    The model is loaded to where the mapper wants it. For class images and latents it lies as :func:`for_drawing` says,
    in a copy that is gone when this returns.

    Args:
        config: of the run.
        folder: of the run.
        interrupt: asked between batches.
        mapper: places the model.
        before_loading: called before the model's weights are read; refuses the run by raising.
    """
    check_hosts(config, folder.path, *dict.fromkeys(class_folders(config).values()))
    pictures = read_own_pictures(config, begun_run(folder, steps=config.train.steps))
    before_loading()
    pipe = load_model(config, mapper.target, place=mapper.load)
    whole = replace(pipe, params=for_drawing(pipe.params, mapper.target))
    return prepare_with(pipe, config, folder, pictures, whole=whole, interrupt=interrupt, cache=folder.cache)


def prepare_with(
    pipe: Pipeline,
    config: Config,
    folder: RunFolder,
    pictures: OwnPictures,
    *,
    whole: Pipeline,
    interrupt: Interrupt,
    cache: Path,
    known: Known | None = None,
) -> Prepared | None:
    """What is left of :func:`prepare` when the model is there. None if a signal broke that off.

    Args:
        pipe: the model, which several runs may share.
        config: of the run.
        folder: of the run, where its settings are saved.
        pictures: its own.
        whole: the model as pictures are drawn with it.
        interrupt: asked between batches.
        cache: folder of moments.
        known: of runs before; it learns what is made for this one.
    """
    begun, known = pictures.begun, known or Known()
    fingerprints = {**pictures.fingerprints, "model": pipe.components.fingerprint}
    check_same("weights of the model", fingerprints["model"])
    check_same("instance images", fingerprints["instance"])
    begun.check_unchanged(config, pipe.components, fingerprints)
    captions = {one.name: captions_of(one, config.data, seed=config.train.seed) for one in concepts_of(config)}
    texts = [text for name, some in pictures.photos.items() for photo in some for text in captions[name].texts(photo)]
    check_used(config, texts)
    taught(pipe, config).tokenizer(texts)  # warns of those too long
    save_settings(config, folder)
    class_images = photos_of_classes(
        whole,
        config=config,
        folders=class_folders(config),
        should_stop=interrupt.requested_anywhere,
        begun_with=begun.class_images,
        read=known.class_images,
    )
    if class_images is None:
        return None
    fingerprints["prior"] = digest(chain(*class_images.values()))
    check_same("class images", fingerprints["prior"])
    begun.check_unchanged(config, pipe.components, fingerprints)
    encoder = Encoder(pipe=whole, data=config.data, seed=config.train.seed, cache=cache, given=known.examples)
    concepts = _concepts(config, encoder, pictures.parts, captions, class_images)
    return Prepared(pipe=pipe, concepts=concepts, first_step=begun.first_step, fingerprints=fingerprints)


def _concepts(
    config: Config,
    encoder: Encoder,
    photos: Mapping[str, tuple[Sequence[Photo], Sequence[Photo]]],
    captions: Mapping[str, Captions],
    class_images: Mapping[str, Sequence[Photo]],
) -> list[PreparedConcept]:
    """The subjects, encoded; all that is given is by their names, of photos those to train on and those held out."""
    concepts = [
        PreparedConcept(
            concept=concept,
            instance=encoder.instance(photos[concept.name][0]),
            held_out=encoder.instance(photos[concept.name][1]),
            prior=encoder.prior(class_images[concept.name]) if concept.name in class_images else None,
            captions=captions[concept.name],
        )
        for concept in concepts_of(config)
    ]
    if config.prior.kind == "teacher":
        return [
            replace(one, lessons=lessons_of(config, one.concept, encoder.pipe)) if one.concept.weight else one
            for one in concepts
        ]
    return concepts
