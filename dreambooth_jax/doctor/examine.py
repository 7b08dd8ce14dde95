# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Look at runs: read what there is of each, draw what can be looked at, and tell what is wrong."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np

from dreambooth_jax.adapters.new_words import words_of
from dreambooth_jax.assessment.assess import SamplingOf
from dreambooth_jax.assessment.drawn import Counts, base_of, identity_of
from dreambooth_jax.assessment.sources import read_sources
from dreambooth_jax.assessment.subjects import EMBEDDED, Sitter, sitters_of
from dreambooth_jax.config import Config, load_config
from dreambooth_jax.config.concepts import Concept, concepts_of, makes_class_images
from dreambooth_jax.config.tokens import KINDS
from dreambooth_jax.data import images
from dreambooth_jax.data.tokenizer import Tokenizer
from dreambooth_jax.doctor.diagnosis import findings
from dreambooth_jax.doctor.finding import Finding
from dreambooth_jax.doctor.looks import Eye, eye_of, look
from dreambooth_jax.doctor.material import material_of
from dreambooth_jax.doctor.patient import Patient, Photo, Piece
from dreambooth_jax.doctor.photo_facts import facts
from dreambooth_jax.doctor.regimen import recipe_for, regimen_of
from dreambooth_jax.errors import InputError
from dreambooth_jax.evaluation.judge import SHIPPED, load
from dreambooth_jax.evaluation.open_towers import open_towers
from dreambooth_jax.evaluation.scores import Towers
from dreambooth_jax.evaluation.towers import Picture
from dreambooth_jax.options import DoctorOptions
from dreambooth_jax.pipeline.load import describe_pretrained
from dreambooth_jax.prepare.class_image_store import usable_pictures
from dreambooth_jax.prepare.class_photos import class_folder
from dreambooth_jax.prepare.photos import captions_of, subject_of
from dreambooth_jax.progress import announced
from dreambooth_jax.runs import RunFolder, model_path, open_model
from dreambooth_jax.target import Target
from dreambooth_jax.training.checkpoint import complete_steps

DRAWN = "doctor"
"""Folder of a run for pictures."""
MOST = 64
"""Class images that are looked at."""
COMMON = 10_000
"""Tokens of CLIP's vocabulary, which is in the order of how often they were read, that are no rare words."""
LARGE = 40_000
"""Of a vocabulary that has rare words."""
NO_EYE = "its pictures: say what to look with, evaluate.dino=facebook/dino-vits16"
NO_READER = "whether prompts are obeyed and the noun fits: evaluate.clip=openai/clip-vit-base-patch32"


@dataclass(frozen=True, kw_only=True)
class Examined:
    """One subject of one run.

    Attributes:
        name: of it.
        patient: what was found out.
        findings: what is wrong.
        unseen: what could not be looked at, and why.
    """

    name: str
    patient: Patient
    findings: Sequence[Finding]
    unseen: Sequence[str] = field(default_factory=list)


def examine(options: DoctorOptions, *, sampling_of: SamplingOf) -> Iterator[Examined]:
    """Every subject of a run, or of all runs of a folder.

    Args:
        options: of the command line.
        sampling_of: how a model draws.

    Raises:
        InputError: if there is no run, or something of it cannot be read.
    """
    (source,) = read_sources([options.run])
    if not source.runs:
        raise InputError(f"{options.run} is no run and no folder of runs: name the folder that train wrote (run_dir)")
    eye = eye_of(open_towers(options.evaluate, Target.here()))
    for run in source.runs:
        config = load_config(RunFolder(run).config)
        name = source.name if len(source.runs) < 2 else f"{source.name}-{run.name}"
        own = eye_of(Towers(judge=load(SHIPPED))) if not eye and config.model.path == EMBEDDED else eye
        sitters = sitters_of(config, options.as_evaluate(), name=name, model=config.model.path)
        subjects = zip(concepts_of(config), sitters)
        yield from _of_run(run, config, subjects, eye=own, options=options, sampling_of=sampling_of)


def _of_run(
    run: Path,
    config: Config,
    subjects: Iterator[tuple[Concept, Sitter]],
    *,
    eye: Eye | None,
    options: DoctorOptions,
    sampling_of: SamplingOf,
) -> Iterator[Examined]:
    steps = complete_steps(RunFolder(run).checkpoints)
    unseen, model = [], None
    if not steps:
        unseen.append("its pictures: it has no finished checkpoint yet")
    elif not options.draw:
        unseen.append("its pictures: draw=false")
    elif not eye:
        unseen.append(NO_EYE)
    else:
        with announced(f"reading {run}", usually="seconds, or half a minute for a large model"):
            model = open_model(str(run), step=options.step, ema=options.ema, dtype=options.dtype)
        unseen += [] if eye.obedience else [NO_READER]
        base = cache(base_of(run, model, dtype=options.dtype))
    step = options.step if isinstance(options.step, int) else max(steps, default=None)
    for concept, sitter in subjects:
        own = list(unseen)
        patient, class_pictures = _patient(run, config, concept, sitter, steps=step, unseen=own)
        if model and eye:
            material = material_of(
                model,
                sitter,
                base=base,
                sampling=sampling_of(model),
                counts=Counts(each=options.num_images, of_class=options.num_class_images, seed=options.seed),
                out=Path(options.out) if options.out else run / DRAWN,
                identity=identity_of(run, options.step),
            )
            looks = look(material, eye, noun=concept.class_noun, class_images=class_pictures)
            patient = replace(patient, looks=looks)
        yield Examined(name=sitter.name, patient=patient, findings=findings(patient), unseen=own)


def _patient(
    run: Path, config: Config, concept: Concept, sitter: Sitter, *, steps: int | None, unseen: list[str]
) -> tuple[Patient, list[Picture]]:
    """(what is known without drawing, class images)."""
    side = min(config.data.size)
    regimen = regimen_of(config, prior=concept.weight)
    shown = _class_images(replace(config, run_dir=str(run)), concept, unseen)
    photos = [(photo, np.asarray(photo.image())) for photo in sitter.photos]
    called = _called(concept, config)
    patient = Patient(
        concept=concept,
        regimen=regimen,
        recipe=recipe_for(regimen, embedded=config.model.path == EMBEDDED),
        side=side,
        crop=config.data.crop,
        steps=steps,
        photos=[
            _photo(photo.name, pixels, side, prompt=photo.prompt if photo.has_caption else called)
            for photo, pixels in photos
        ],
        class_images=[_photo(name, pixels, side) for name, pixels in shown],
        pieces=_pieces(run, config, concept, unseen),
    )
    return patient, [pixels for _, pixels in shown]


def _called(concept: Concept, config: Config) -> str:
    """How photos without a caption are called; of several templates the first without the identifier, if any."""
    templates = captions_of(concept, config.data, seed=0).templates
    own = templates or (subject_of(concept).fill(concept.instance_prompt),)
    return next((text for text in own if concept.identifier not in text), own[0])


def _photo(name: str, pixels: Picture, side: int, *, prompt: str = "") -> Photo:
    return Photo(
        name=name, height=pixels.shape[0], width=pixels.shape[1], facts=facts(pixels, side=side), prompt=prompt
    )


def _class_images(config: Config, concept: Concept, unseen: list[str]) -> list[tuple[str, Picture]]:
    """(name, picture) of some of those that a run was trained with."""
    if not (concept.weight and makes_class_images(config)):
        return []
    folder = class_folder(config, concept)
    names = sorted(usable_pictures(folder)) if folder.is_dir() else []
    if not names:
        unseen.append(f"class images: there are none in {folder}")
    return [(name, np.asarray(images.decode(folder / name))) for name in islice(names, MOST)]


def _pieces(run: Path, config: Config, concept: Concept, unseen: list[str]) -> list[Piece]:
    """Tokens of the identifier, in the first text encoder's vocabulary."""
    if config.adapter.kind in KINDS and concept.identifier in words_of(config):
        return []
    model = config.model
    about = {"revision": model.revision, "tokenizer": model.tokenizer, "prediction_type": model.prediction_type}
    try:
        known = describe_pretrained(model_path(RunFolder(run), config), target=Target.here(), **about)
    except InputError as error:
        unseen.append(f"tokens of the identifier: {error}")
        return []
    return pieces_of(known.tokenizer, concept.identifier)


def pieces_of(tokenizer: Tokenizer, identifier: str) -> list[Piece]:
    """Tokens that an identifier falls into; those of a small vocabulary are all taken for rare."""
    vocabulary = tokenizer.backend.get_vocab()
    pieces = tokenizer.pieces(identifier)
    return [Piece(text=one, common=len(vocabulary) >= LARGE and vocabulary[one] < COMMON) for one in pieces]
