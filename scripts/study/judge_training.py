# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How the judge learns: composed pictures of one thing each, a third of them subjects, most of them worn.

    L = cross entropy of the class + cross entropy of the subject

One drawing in twelve is kept from it: on these its classes are validated. Subjects it has to have seen, as DINO has
seen dogs; they are validated in scenes that it has not.
"""

import io
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from embedded.colours import shares
from embedded.compose import Composer, Grammar
from embedded.fit import HostBatch, Stage, fit, initial
from embedded.sprites import Sprite, read_sprites
from jaxtyping import Array, Float, Int, Key, UInt8
from PIL import Image, ImageFilter

from dreambooth_jax.evaluation.judge import NOBODY, Judge, JudgeNetwork, network
from dreambooth_jax.training.step import Batch, Metrics
from dreambooth_jax.trees import Tree

from .subjects import Subject, confirming, drawn, held_out

_ALONE = Grammar(recolour=0.0, small=0.15, placed=0.2, big=0.1)
_COMMON = 16
"""Drawings that make a class."""
_VALIDATED = 2_000
"""Pictures."""
_CORNERS = ((0, 0), (1, 0), (1, 1), (0, 1))
"""Of a cell, in the order that pillow wants: from the upper left against the clock; (down, right)."""


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """One judge."""

    sprites: Path
    """Folder with sprites.parquet."""
    work: Path
    """Folder for pictures, checkpoints and the log; the same command again goes on from them."""
    output: Path
    """The finished judge's folder."""
    confirming: bool = False
    """Know the subjects of the confirmation, not those of the study."""
    count: int = 40_000
    """Pictures."""
    subject_share: float = 0.33
    workers: int = 2
    seed: int = 0
    stage: Stage = field(
        default_factory=lambda: Stage(steps=2_500, batch_size=32, learning_rate=4e-3, warmup=100, ema_decay=0.995)
    )


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Pictures of one thing and which; called with a number. Picklable, for processes that compose."""

    others: Composer
    subjects: Composer
    share: float

    def __call__(self, index: int) -> tuple[np.ndarray, Sprite]:
        """(uint8 picture, what it shows)."""
        rng = np.random.default_rng((self.others.seed, 1, index))
        composer = self.subjects if rng.random() < self.share else self.others
        picture, sprite = composer.alone(index)
        return picture if rng.random() < 0.4 else worn(picture, rng), sprite


def worn(picture: UInt8[np.ndarray, "s s 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "s s 3"]:
    """As a small diffusion model would paint it: bent a little, without fine detail, in other light, with blotches."""
    image = _bent(Image.fromarray(picture), rng)
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.MedianFilter(3))
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.3)))
    side = image.width
    noise = [
        Image.fromarray(rng.normal(0, rng.uniform(0, 14), (side // 4, side // 4)).astype(np.float32)).resize(
            image.size, Image.Resampling.BICUBIC
        )
        for _ in range(3)
    ]
    light = rng.uniform(0.85, 1.15, 3) * (np.asarray(image, np.float32) - 128) + 128 + rng.normal(0, 6, 3)
    return np.clip(light + np.stack([np.asarray(channel) for channel in noise], -1), 0, 255).astype(np.uint8)


def _bent(image: Image.Image, rng: np.random.Generator, cells: int = 4) -> Image.Image:
    """Inner corners of a grid moved by up to a fifth of a cell's side; the border stays."""
    side = image.width
    at = np.stack(np.meshgrid(np.linspace(0, side, cells + 1), np.linspace(0, side, cells + 1)), -1)  # [row, column]
    at[1:-1, 1:-1] += rng.uniform(-1, 1, at[1:-1, 1:-1].shape) * side / cells / 5
    step = side // cells
    mesh = [
        (
            (column * step, row * step, (column + 1) * step, (row + 1) * step),
            tuple(float(x) for down, right in _CORNERS for x in at[row + down, column + right]),
        )
        for row in range(cells)
        for column in range(cells)
    ]
    return image.transform(image.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)


def train_judge(settings: JudgeSettings) -> Judge:
    """Train, validate and write a judge."""
    settings.work.mkdir(parents=True, exist_ok=True)
    known = confirming(settings.sprites) if settings.confirming else [*held_out(settings.sprites), drawn()]
    shown, unseen, subjects = drawings(settings.sprites, known)
    nouns, names = sorted({sprite.noun for sprite in (*shown, *subjects)}), sorted({s.subject for s in subjects})
    scenes = Scenes(
        others=Composer(shown, _ALONE, seed=settings.seed),
        subjects=Composer(subjects, _ALONE, seed=settings.seed),
        share=settings.subject_share,
    )
    pictures, labels = compose(settings, scenes, nouns=nouns, subjects=names)
    own = network(nouns, names)
    side = _ALONE.size
    params = fit(
        JudgeObjective(network=own, batch_size=settings.stage.batch_size),
        {"judge": initial(own, jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32), seed=settings.seed)},
        partial(batch_at, pictures=pictures, labels=labels, size=settings.stage.batch_size, seed=settings.seed),
        settings.stage,
        settings.work,
        seed=settings.seed,
    )["judge"]
    judge = Judge(nouns=nouns, subjects=names, params=params)
    fresh = replace(
        scenes,
        others=Composer(unseen, _ALONE, seed=settings.seed + 1),
        subjects=Composer(subjects, _ALONE, seed=settings.seed + 1),
    )
    judge = replace(judge, measured=validate(judge, fresh, count=_VALIDATED))
    judge.save(settings.output)
    return judge


def drawings(folder: Path, subjects: Sequence[Subject]) -> tuple[list[Sprite], list[Sprite], list[Sprite]]:
    """(to learn classes from, to validate classes on, views of the subjects)."""
    train = read_sprites(folder)
    sizes = Counter(sprite.noun for sprite in train)
    wanted = {noun for noun, size in sizes.items() if size >= _COMMON} | {subject.class_noun for subject in subjects}
    known = [sprite for sprite in train if sprite.noun in wanted]
    shown = [sprite for sprite in known if not _is_kept_back(sprite)]
    nouns = {sprite.noun for sprite in shown}
    return (
        shown,
        [sprite for sprite in known if _is_kept_back(sprite) and sprite.noun in nouns],
        [_as_sprite(subject, view) for subject in subjects for view in subject.views],
    )


def _is_kept_back(sprite: Sprite) -> bool:
    return zlib.crc32(sprite.image) % 12 == 0


def _as_sprite(subject: Subject, view: Image.Image) -> Sprite:
    file = io.BytesIO()
    view.save(file, "PNG")
    found = shares(view)
    return Sprite(
        image=file.getvalue(),
        name=subject.name,
        noun=subject.class_noun,
        above="object",
        style="",
        wears_hats=False,
        main_colour=found[0] if found else None,
        subject=subject.name,
    )


def compose(
    settings: JudgeSettings, scenes: Scenes, *, nouns: Sequence[str], subjects: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """(pictures, [noun, subject] of each), made once."""
    pictures, labels = settings.work / "pictures.npy", settings.work / "labels.npy"
    if not labels.exists():
        # spawned, not forked: the parent may have started JAX's threads
        with get_context("spawn").Pool(settings.workers) as pool:
            made = pool.map(scenes, range(settings.count), chunksize=256)
        np.save(pictures, np.stack([picture for picture, _ in made]))
        np.save(labels, np.array([label(sprite, nouns, subjects) for _, sprite in made], np.int32))
    return np.load(pictures, mmap_mode="r"), np.load(labels)


def label(sprite: Sprite, nouns: Sequence[str], subjects: Sequence[str]) -> tuple[int, int]:
    """Its numbers; nobody's comes after the last subject's."""
    return nouns.index(sprite.noun), subjects.index(sprite.subject) if sprite.subject else len(subjects)


@dataclass(frozen=True, kw_only=True)
class JudgeObjective:
    """An ``Objective`` over batches of ``pictures``, ``labels`` and ``index``."""

    network: JudgeNetwork
    batch_size: int

    def __call__(
        self, params: Tree, batch: Batch, *, root_key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        """The loss of some rows, divided by the whole step's number of rows."""
        pictures = batch["pictures"].astype(jnp.float32) / 127.5 - 1
        noun, subject, _ = self.network.apply({"params": params["judge"]}, pictures)
        entropy = optax.softmax_cross_entropy_with_integer_labels
        losses = {"class": entropy(noun, batch["labels"][:, 0]), "subject": entropy(subject, batch["labels"][:, 1])}
        means = {name: loss.sum() / self.batch_size for name, loss in losses.items()}
        return means["class"] + means["subject"], means


def batch_at(step: int, *, pictures: np.ndarray, labels: np.ndarray, size: int, seed: int) -> HostBatch:
    """Pictures drawn at random for a step, half of them mirrored."""
    rng = np.random.default_rng((seed, step))
    rows = np.sort(rng.integers(0, len(pictures), size))
    flipped = rng.random((size, 1, 1, 1)) < 0.5
    some = pictures[rows]
    return {
        "pictures": np.where(flipped, some[:, :, ::-1], some),
        "labels": labels[rows],
        "index": np.arange(size, dtype=np.int32),
    }


def validate(judge: Judge, scenes: Scenes, *, count: int) -> dict[str, Any]:
    """Shares right over ``count`` pictures: classes of drawings never seen, subjects in scenes never seen."""
    pictures, sprites = zip(*map(scenes, range(count)))
    verdicts = judge(np.stack(pictures))
    rows = list(zip(sprites, verdicts.nouns, verdicts.subjects))
    others = [row for row in rows if not row[0].subject]
    own = [row for row in rows if row[0].subject]
    return {
        "class_right_on_unseen_drawings": _share(noun == sprite.noun for sprite, noun, _ in others),
        "classes": len(judge.nouns),
        "subject_right_in_unseen_scenes": _share(subject == sprite.subject for sprite, _, subject in own),
        "taken_for_a_subject": _share(subject != NOBODY for *_, subject in others),
        "worst_subject": min(
            _share(subject == name for sprite, _, subject in own if sprite.subject == name) for name in judge.subjects
        ),
        "pictures": count,
    }


def _share(verdicts: Any) -> float:
    return round(float(np.mean(list(verdicts))), 4)
