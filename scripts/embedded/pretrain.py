# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Sprites -> model folder.

corpus -> tokenizer -> autoencoder -> moments of the corpus -> denoiser -> folder -> measured -> card
"""

import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dreambooth_jax.evaluation import judge
from dreambooth_jax.pipeline import Pipeline, load_pretrained
from dreambooth_jax.target import Target
from dreambooth_jax.trees import Tree
from dreambooth_jax.weights.pretrained import Components
from dreambooth_jax.weights.writing import write_folder

from . import card, denoiser, grids, stages, vocabulary
from .autoencoder import moments
from .fit import fit
from .measure import class_captions, shares_right
from .settings import Settings

_SAMPLING: dict[str, Any] = {"steps": 30, "guidance_scale": 4.0}


def pretrain(settings: Settings) -> None:
    """Do what is left to do and write the finished folder."""
    settings.work.mkdir(parents=True, exist_ok=True)
    corpus = stages.corpus(settings)
    tokenizer = settings.work / "tokenizer"
    if not (tokenizer / "vocab.json").exists():
        if settings.begin_with:
            shutil.copytree(settings.begin_with / "tokenizer", tokenizer)
        else:
            vocabulary.train(corpus.captions, tokenizer, size=settings.data.tokens)
    vae = stages.train_autoencoder(settings, corpus.pictures)
    model = train_denoiser(settings, vae, corpus)
    write(settings, model)
    measured = measure(settings, load_pretrained(settings.output))
    sampling = "{steps} steps, guidance {guidance_scale:g}".format(**_SAMPLING)
    card.write(settings, measured, model=model, sprites=len(stages.sprites(settings)), sampling=sampling)


def train_denoiser(settings: Settings, vae: Tree, corpus: stages.Corpus) -> Components:
    """All three networks, with the measured scaling factor."""
    own, work = settings.denoiser, settings.work
    # of this autoencoder: another number of steps is another one
    file = work / "autoencoder" / f"moments_{settings.autoencoder.stage.steps}.npz"
    latents = stages.cached(file, partial(_moments, settings, vae, corpus))
    scaling_factor = round(1 / float(np.std(latents["mean"], dtype=np.float64)), 5)
    side = latents["mean"].shape[1]
    configs = denoiser.configs(own, sample_size=side, vocab_size=vocabulary.size(work / "tokenizer"))
    configs["vae"] = stages.vae_config(settings, scaling_factor)
    modules = denoiser.modules(configs, stages.compute_dtype(settings))
    ids = vocabulary.encode(corpus.captions, work / "tokenizer", respelt=settings.data.respelt)

    def components(trained: Tree) -> Components:
        return Components(
            modules=modules,
            params={**trained, "vae": vae},
            configs=configs,
            scheduler_config=denoiser.scheduler_config(own),
            folder=work,
            tokenizers={"text_encoder": work / "tokenizer"},
        )

    folder = work / "denoiser"
    folder.mkdir(exist_ok=True)
    trained = fit(
        denoiser.objective(modules, own, scaling_factor),
        stages.begin(settings, "unet", "text_encoder") or denoiser.start(modules, seed=settings.seed),
        denoiser.Latents(**latents, ids=ids, own=own, seed=settings.seed),
        own.stage,
        folder,
        seed=settings.seed,
        show=lambda step, average: _show(settings, components(average), folder / f"step_{step:06d}.png"),
    )
    return components(trained)


def _moments(settings: Settings, vae: Tree, corpus: stages.Corpus) -> dict[str, np.ndarray]:
    module = stages.autoencoder_module(settings)
    mean, logvar = moments(module, vae, corpus.pictures)
    return {"mean": mean, "logvar": logvar}


def _show(settings: Settings, components: Components, file: Path) -> None:
    """A grid of the same captions and seeds each time."""
    captions = stages.fresh_captions(settings, 16)
    grids.save(file, generate(Pipeline.from_components(components, Target.here()), captions), columns=8)


def generate(pipeline: Pipeline, captions: Sequence[str], *, size: int = 16) -> np.ndarray:
    """A picture of each caption, uint8, ``size`` at a time; picture i has seed i."""
    pictures = []
    for first in range(0, len(captions), size):
        some = list(captions[first : first + size])
        padded = some + [""] * (size - len(some))  # one size, one program
        pictures.append(pipeline(padded, seed=first, **_SAMPLING)[: len(some)])
    return np.concatenate(pictures)


def write(settings: Settings, model: Components) -> None:
    """The diffusers folder in half precision, with what the sprites' licences ask to travel along."""
    write_folder(
        settings.output,
        params=model.params,
        configs=model.configs,
        scheduler_config=model.scheduler_config,
        tokenizers={"tokenizer": settings.work / "tokenizer"},
        dtype="float16",
    )
    (settings.output / "LICENCES").mkdir(exist_ok=True)
    for file in (settings.sprites / "ATTRIBUTION.txt", *(settings.sprites / "LICENCES").iterdir()):
        # without its mode: data are often read-only
        shutil.copyfile(file, settings.output / file.relative_to(settings.sprites))


def measure(settings: Settings, pipeline: Pipeline, *, count: int = 200) -> dict[str, float | int]:
    """Figures and grids of the finished model, on captions that no corpus has."""
    captions = stages.fresh_captions(settings, count)
    began = time.monotonic()
    pictures = generate(pipeline, captions)
    seconds = (time.monotonic() - began) / count
    grids.save_captioned(settings.work / "samples.png", pictures[:100], captions[:100], columns=10)
    measured = {
        **shares_right(pictures, captions),
        **classes_right(settings, pipeline),
        "seconds_per_picture": round(seconds, 2),
    }
    stages.write_json(settings.work / "measured.json", measured)
    return measured


def classes_right(settings: Settings, pipeline: Pipeline) -> dict[str, float | int]:
    """Of pictures of every class that has members enough and that the judge knows, the share that it takes for it."""
    asked, trusted = class_captions(stages.sprites(settings)), judge.load()
    known = {caption: noun for caption, noun in asked.items() if noun in trusted.nouns}
    if not known:
        return {"class_right": 0.0, "classes_asked": 0, "class_captions": 0}
    found = trusted(generate(pipeline, list(known))).nouns
    right = float(np.mean([one == noun for one, noun in zip(found, known.values())]))
    return {"class_right": right, "classes_asked": len(set(known.values())), "class_captions": len(known)}
