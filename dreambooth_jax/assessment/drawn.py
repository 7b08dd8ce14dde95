# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Pictures of a model for one subject: with the identifier, of its class, and of what it should not have changed.

OUT/base/        of the models that runs began with, where drift is measured
OUT/NAME/        subject/000-seed0.png ...    class/...    other/...    scores.jsonl
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dreambooth_jax.assessment.subjects import Sitter
from dreambooth_jax.config.drawing import DrawingConfig
from dreambooth_jax.evaluation.job_folders import job_folder
from dreambooth_jax.evaluation.many import draw_missing
from dreambooth_jax.evaluation.samples import SampleSettings
from dreambooth_jax.evaluation.scores import Group, Kind
from dreambooth_jax.evaluation.towers import Picture
from dreambooth_jax.prepare.batch_size import pictures_at_once
from dreambooth_jax.runs import OpenedModel, RunFolder, model_path, open_model, pick_step

Drawn = list[list[Picture]]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many pictures.

    Attributes:
        each: of a prompt.
        of_class: of the class prompt.
        seed: of the first picture of a prompt.
    """

    each: int
    of_class: int
    seed: int


def groups_of(
    model: OpenedModel,
    sitter: Sitter,
    *,
    sampling: DrawingConfig,
    counts: Counts,
    out: Path,
    identity: str,
    base: Callable[[], OpenedModel] | None,
) -> dict[Kind, list[Group]]:
    """All groups of pictures of a subject, made where they are not there.

    Args:
        model: that draws.
        sitter: the subject.
        sampling: how.
        counts: how many.
        out: folder of all that is measured.
        identity: what tells the weights of a run from others of its name.
        base: opens the model that a run began with; None where drift is not asked for.
    """
    drawn = partial(draw, sampling=sampling, counts=counts)
    about = {"model": model.name, "fingerprint": model.pipe.components.fingerprint, "trained": identity}
    own = out / sitter.name
    pictures = drawn(model, sitter.prompts, own, "subject", about=about)
    groups: dict[Kind, list[Group]] = {
        "subject": [
            Group(template, sitter.without_identifier(template), some)
            for template, some in zip(sitter.templates, pictures)
        ]
    }
    if counts.of_class:
        (some,) = drawn(model, [sitter.class_prompt], own, "class", about=about, each=counts.of_class)
        groups["class"] = [Group("class prompt", sitter.class_prompt, some)]
    if base:
        after = drawn(model, list(sitter.other), own, "other", about=about)
        known = {"fingerprint": model.pipe.components.fingerprint}
        before = drawn(base, list(sitter.other), out, "base", about=known)
        groups["other"] = [Group(text, text, *both) for text, *both in zip(sitter.other, after, before)]
    return groups


def draw(
    model: OpenedModel | Callable[[], OpenedModel],
    prompts: list[str],
    within: Path,
    name: str,
    *,
    about: dict[str, Any],
    sampling: DrawingConfig,
    counts: Counts,
    each: int | None = None,
) -> Drawn:
    """Pictures of prompts, made where they are not there.

    Args:
        model: that draws, or opens it.
        prompts: each of which has as many.
        within, name: their folder, which has a number behind it where other settings have one of this name.
        about: what tells the model's weights from others.
        sampling: how.
        counts: how many, and of which seeds.
        each: of a prompt; by default as ``counts`` says.
    """
    settings = SampleSettings(prompts=prompts, num_images=each or counts.each, seed=counts.seed, sampling=sampling)
    job = about | settings.metadata() | {"prompts": prompts, "num_images": settings.num_images, "seed": settings.seed}
    path = job_folder(within, name, job | {"height": sampling.height, "width": sampling.width})
    opened = model if isinstance(model, OpenedModel) else model()
    return draw_missing(
        opened.pipe,
        settings,
        path,
        params=opened.params,
        model=opened.name,
        at_once=lambda count: pictures_at_once(opened.pipe, sampling, count=count),
        what=f"{within.name} {name}",
    )


def identity_of(run: Path | None, step: Any) -> str:
    """Of a run's weights: when its checkpoint was written."""
    if run is None:
        return ""
    folder = RunFolder(run)
    return str((folder.checkpoints / str(pick_step(folder, step))).stat().st_mtime_ns)


def base_of(run: Path, model: OpenedModel, *, dtype: str) -> Callable[[], OpenedModel]:
    """What opens the model that a run began with."""
    config = model.config
    assert config is not None
    place = model_path(RunFolder(run), config)
    of_model = {name: getattr(config.model, name) for name in ("revision", "variant", "tokenizer", "prediction_type")}
    parts = {name: getattr(config.model, name) for name in ("vae", "unet")}
    return lambda: replace(open_model(place, dtype=dtype, **parts, **of_model), name=place)
