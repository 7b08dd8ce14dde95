# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``dreambooth-jax sample``."""

import dataclasses
import logging
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth_jax.cli.controls import open_controls
from dreambooth_jax.cli.draw import draw
from dreambooth_jax.cli.embeddings import with_embeddings
from dreambooth_jax.cli.grid import draw_grid, read_grid, with_prompts
from dreambooth_jax.cli.like import like_told, read_like, say_not_repeated
from dreambooth_jax.cli.loras import Bare, with_loras
from dreambooth_jax.cli.prompts import fill_prompts, read_prompts, words_of
from dreambooth_jax.cli.queue import queued_jobs, work_off
from dreambooth_jax.cli.refiner import open_refiner, told_of_model
from dreambooth_jax.cli.verb import Call, Verb
from dreambooth_jax.cli.words import one_each, quoted_list
from dreambooth_jax.config.drawing import DrawingConfig
from dreambooth_jax.config.sampling import SamplingConfig
from dreambooth_jax.config.setting import rules_of
from dreambooth_jax.errors import InputError
from dreambooth_jax.options import SampleOptions

if TYPE_CHECKING:
    from dreambooth_jax.evaluation.drawing import PictureFolder
    from dreambooth_jax.metadata.remake import Remake
    from dreambooth_jax.pipeline import Pipeline
    from dreambooth_jax.runs import OpenedModel

log = logging.getLogger(__name__)


def sample(call: Call) -> None:
    """Draw pictures and a grid.

    Raises:
        InputError: if there is no prompt or no such model.
    """
    options: SampleOptions = call.settings
    remake = read_like(options.like) if options.like else None
    if remake:
        options = like_told(options, call.told, remake)
    jobs = queued_jobs(options, call.told) if options.queue else {}
    prompts = [] if jobs else read_prompts(options, needed=not (options.grid and "prompt" in options.grid))
    fill = partial(fill_prompts, words=words_of(options), syntax=options.prompt_syntax)
    filled = {path: fill(of_file) for path, of_file in jobs.items()}
    if not (remake and options.prompts == (remake.prompt,)):
        prompts = fill(prompts)
    bare, queued = Bare(prompts), {path: Bare(of_file) for path, of_file in filled.items()}
    if options.prompt_syntax == "a1111":
        options, bare, queued = with_loras(options, prompts, filled)
    end = 2**32 if options.noise == "jax" else 2**64
    if options.seed + options.num_images > end:
        raise InputError(f"seed {options.seed} + num_images {options.num_images} is more than {end}: seeds end there")
    axes = with_prompts(read_grid(options, call.told), fill)
    from dreambooth_jax.cli.watching import watcher_of
    from dreambooth_jax.compilation_cache import keep_compiled
    from dreambooth_jax.evaluation.drawing import Place
    from dreambooth_jax.evaluation.samples import SampleSettings
    from dreambooth_jax.metadata.ours import KEYWORD as OURS

    keep_compiled()
    if axes:
        sheet = folder_of(options).grid
        draw_grid(options, bare.prompts, axes, sheet, lambda changed: opened(changed, call.told, remake))
        print(sheet)
        return
    watcher = watcher_of(options)
    model, sampling, given = opened(options, call.told, remake)
    settings = SampleSettings(
        prompts=bare.prompts,
        loras=bare.loras,
        num_images=options.num_images,
        seed=options.seed,
        sampling=sampling,
        given=given,
        words=model.pipe.word_files,
        adapters=model.adapters,
    )
    folder = folder_of(options)
    if queued:
        work_off(
            queued, options, settings, folder.path, model, lambda job, into: draw(model, job, into, watcher=watcher)
        )
        return
    place = None
    if remake:
        say_not_repeated(options, remake, model)
        place = Place(remake.batch, remake.position) if remake.tool == OURS else None
    draw(model, settings, folder, place=place, watcher=watcher)
    print(folder.grid)


def folder_of(options: SampleOptions) -> "PictureFolder":
    """Where pictures are added: in the run folder, if the model is of one, unless it is told."""
    from dreambooth_jax.evaluation.drawing import PictureFolder
    from dreambooth_jax.runs import RunFolder

    run = RunFolder(Path(options.source))
    return PictureFolder(options.out or (run.path if run.is_run() else Path()) / "samples")


def opened(
    options: SampleOptions, told: Collection[str], remake: "Remake | None"
) -> tuple["OpenedModel", DrawingConfig, dict[str, Any]]:
    """(the model, how it draws, pictures that it draws from)."""
    from dreambooth_jax.pipeline.controls import first_map
    from dreambooth_jax.pipeline.sizes import settled
    from dreambooth_jax.progress import announced
    from dreambooth_jax.runs import open_model

    with announced(f"reading {options.source}", usually="seconds, or half a minute for a large model"):
        model = with_embeddings(open_model(dtype=options.dtype, **told_of_model(options)), options.embedding)
    given = given_pictures(options, model.pipe)
    own_size = "image" in given or first_map(given.get("control", ())) is not None
    sampling = sampling_of(options, told, model, remake, own_size=own_size)
    return model, dataclasses.replace(sampling, strength=settled(model.pipe, sampling, given).strength), given


def given_pictures(options: SampleOptions, pipe: "Pipeline") -> dict[str, Any]:
    """Pictures and further models of the command line, read: arguments of the pipeline by name."""
    from dreambooth_jax.data.masks import read_masks
    from dreambooth_jax.data.pictures import read_picture
    from dreambooth_jax.pipeline.request import ALPHA
    from dreambooth_jax.progress import announced

    given: dict[str, Any] = {}
    if options.image:
        given["image"] = read_picture(options.image, alpha=options.mask == ALPHA)
    if options.mask:
        given["mask"] = ALPHA if options.mask == ALPHA else read_masks(options.mask)
    if options.control:
        given["control"] = open_controls(options.control, pipe)
    if options.refiner:
        with announced(f"reading {options.refiner}", usually="seconds, or half a minute for a large model"):
            given["refiner"] = open_refiner(options, pipe)
    return given


def sampling_of(
    options: SamplingConfig,
    told: Collection[str],
    model: "OpenedModel",
    remake: "Remake | None" = None,
    *,
    own_size: bool = False,
) -> DrawingConfig:
    """What the command line tells; the rest is as in the picture to repeat, or for a run as in its own samples.

    Args:
        options: of the command line.
        told: names of those that it gave.
        model: the model, with its run's settings.
        remake: a picture to repeat.
        own_size: whether a given picture says what size is drawn.
    """
    size = None if own_size or not model.config else model.config.data.size
    if remake:
        base = DrawingConfig(**remake.options)
    elif model.config:
        base = DrawingConfig.of(model.config.samples.sampling(size=size))
    else:
        return DrawingConfig.of(options)
    fields = {field.name: field for field in dataclasses.fields(DrawingConfig)}
    values = {name: getattr(options, name) for name in fields if name in told}
    if "sampler" in told:  # what the run's own sampler was told means nothing to another
        values |= {name: getattr(options, name) for name, field in fields.items() if rules_of(field).of_sampler}
    if not remake:  # the prompts are not the run's
        values["prompt_syntax"] = options.prompt_syntax
    if options.schedule != fields["schedule"].default:  # told, or a part of the sampler's name
        values["schedule"] = options.schedule
    sampling = dataclasses.replace(base, **values)
    log.info("%d steps, guidance %g", sampling.steps, sampling.guidance_scale)
    return sampling


def source_and_prompts(words: Sequence[str]) -> list[str]:
    """The first word is a model, the others are prompts."""
    source = one_each("source")(words[:1])
    return source + ([f"--prompts={quoted_list(words[1:])}"] if words[1:] else [])


COMMON = {
    "what to draw": ("prompts_file", "negative_prompt", "num_images", "seed", "height", "width", "grid", "like", "out"),
    "from pictures": ("image", "strength", "mask", "control"),
    "how": ("steps", "guidance_scale", "sampler", "schedule", "profile"),
    "with which weights": ("step", "ema", "embedding", "dtype"),
}
"""What most people set."""


SAMPLE = Verb(
    name="sample",
    usage="SOURCE PROMPT [PROMPT ...] [KEY=VALUE ...]",
    help="draw pictures and a labelled grid",
    settings=SampleOptions,
    place_words=source_and_prompts,
    run=sample,
    repeatable=("control", "embedding", "lora"),
    common=COMMON,
    examples=(
        ("four pictures of each prompt", 'sample runs/dog "a photo of sks dog in the snow" "a sks dog as a statue"'),
        (
            "from a picture, of which most changes",
            'sample runs/dog "a sks dog, oil painting" image=dog.jpg strength=0.6',
        ),
        (
            "along the edges of a photo",
            'sample runs/dog "a sks dog" --control canny:lllyasviel/control_v11p_sd15_canny:photo.jpg:0.8',
        ),
        ("a picture again", "sample runs/dog --like runs/dog/samples/000-seed0.png"),
        ("a model from the hub", 'sample stable-diffusion-v1-5/stable-diffusion-v1-5 "a photo of a dog" --out dogs'),
    ),
)
