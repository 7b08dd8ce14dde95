# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What can be known to be wrong from the settings alone, before a file is read or anything is compiled.

Bounds of single settings stand at their fields; here is what settings must be to each other.
"""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeAlias

from dreambooth_jax.config import Config, OptimizerConfig, SamplingConfig
from dreambooth_jax.config.adapters import USUAL_RATES, adapter_problems
from dreambooth_jax.config.concepts import Concept, concepts_of
from dreambooth_jax.config.effects import DOUBTED, REFUSED, without_effect
from dreambooth_jax.config.objective import objective_problems
from dreambooth_jax.config.scores import score_problems
from dreambooth_jax.config.setting import broken, shown
from dreambooth_jax.config.tokens import token_problems
from dreambooth_jax.config.validation import validation_problems
from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.diffusion.samplers import settings_of
from dreambooth_jax.errors import InputError
from dreambooth_jax.prompts.named import expanded
from dreambooth_jax.training.optimizer_kinds import KINDS
from dreambooth_jax.training.rules import Rule

Syntax: TypeAlias = Literal["plain", "a1111"]

log = logging.getLogger(__name__)

LEAST_FACTOR = 0.01
"""Of the rate that an optimizer finds by itself."""
LEAST_SHARE = 0.1
"""Of the rate that is usual for an adapter."""


def check_config(config: Config) -> None:
    """Raise InputError for the first setting that cannot work, with the way out; warn of what can hardly be meant."""
    if not isinstance(config, Config):
        raise InputError(f"{shown(config)} is no Config: load_config makes one, of a file or a name and KEY=VALUE")
    for problem in problems(config):
        raise InputError(problem)
    for doubt in doubts(config):
        log.warning("%s", doubt)


def problems(config: Config) -> Iterator[str]:
    """All of them, one line each."""
    for key, value, rule in broken(config):
        yield f"{key} is {value}, but must be {rule}"
    if config.data.subjects:
        yield f"data.subjects is {shown(config.data.subjects)}, which are runs of their own: train and sweep take it"
    if config.prior.kind != "teacher":
        for name in ("prompts", "other_subjects"):
            if value := getattr(config.prior, name):
                yield f"prior.{name} is {shown(value)}, but pictures have no use for it: set prior.kind=teacher"
    elif config.data.buckets > 1 and len({bool(one.weight) for one in concepts_of(config)}) > 1:
        yield "prior.kind=teacher with data.buckets needs a weight above 0 for all of data.concepts, or for none"
    elif config.prior.other_subjects and not config.data.concepts:
        yield "prior.other_subjects is True, but there is one subject only: list them in data.concepts"
    yield from _optimizer(config.optimizer, ema_decay=config.train.ema_decay)
    yield from objective_problems(config.objective)
    yield from validation_problems(config.validation, several=bool(config.data.concepts))
    yield from score_problems(config)
    yield from adapter_problems(config.adapter)
    yield from without_effect(config, REFUSED)
    yield from token_problems(
        config.tokens,
        kind=config.adapter.kind,
        steps=config.train.steps,
        prior_weight=max(concept.weight for concept in concepts_of(config)),
        text_encoder_stop=config.text_encoder.stop,
        subjects=len(concepts_of(config)),
    )
    yield from _export(config)
    yield from _sampling("prior", config.prior)
    yield from _sampling("samples", config.samples)
    text_encoder, steps = config.text_encoder, config.train.steps
    start, stop = text_encoder.stretch(steps)
    if text_encoder.stop != 0 and start >= stop:
        yield (
            f"text_encoder.start {start} is not before text_encoder.stop {text_encoder.stop} and the end, "
            f"train.steps {steps}"
        )
    if Path(config.model.path).resolve() == Path(config.run_dir, "model").resolve():
        yield f"model.path {config.model.path} is where this run would write its own model: choose another run_dir"
    for concept in concepts_of(config):
        photos = concept.instance_images
        if photos and Path(photos).resolve() == Path(config.run_dir).resolve():
            yield f"run_dir {config.run_dir} is the folder of the photos: choose another, which the run can write to"
    yield from _concepts(config)
    yield from _words(config)


def _concepts(config: Config) -> Iterator[str]:
    """What several subjects must be to each other."""
    data = config.data
    if data.concepts and data.instance_images:
        yield f"data.instance_images is {shown(data.instance_images)}, but data.concepts have their own: leave one out"
    first: dict[str, Concept] = {}
    for concept in concepts_of(config) if data.concepts else ():
        twin = first.setdefault(concept.identifier.strip().lower(), concept)
        if twin is not concept:
            yield (
                f"{concept.key}.identifier is {shown(concept.identifier)}, as in {twin.key}: one word cannot mean two "
                "subjects, choose another"
            )
    said = [one.repeats is not None for one in data.concepts]
    if any(said) and not all(said):
        yield f"data.concepts.{said.index(False)} has no repeats, but others have: say them of all, or of none"


def _optimizer(settings: OptimizerConfig, *, ema_decay: float) -> Iterator[str]:
    kind, name = KINDS[settings.kind], settings.kind
    for unused in kind.unused:
        value = getattr(settings, unused)
        if value != getattr(OptimizerConfig(), unused):
            yield f"optimizer.{unused} is {value}, but {name} has no use for it: leave it out"
    if kind.finds_rate and 0 < settings.learning_rate < LEAST_FACTOR:
        yield (
            f"optimizer.learning_rate is {settings.learning_rate:g}, but {name} finds the rate by itself and takes so "
            "many times as much: set optimizer.learning_rate=1"
        )
    if kind.averages:
        if ema_decay:
            yield f"train.ema_decay is {ema_decay}, but {name} averages by itself: leave it out"
        if settings.schedule != "constant":
            yield f"optimizer.schedule is {settings.schedule}, but {name} needs none: leave it out"
        if not settings.beta1:
            yield f"optimizer.beta1 is 0, but must be above 0 for {name}, which averages with it"
    schedules = _schedules(settings)
    if settings.cycles != OptimizerConfig().cycles and "cosine_restarts" not in schedules:
        yield f"optimizer.cycles is {settings.cycles}, but only optimizer.schedule=cosine_restarts has cycles"


def _schedules(settings: OptimizerConfig) -> set[str | None]:
    """Of the optimizer and its rules. Raises InputError for what is no rule."""
    return {settings.schedule, *(Rule.parse(text).schedule for text in settings.rules)}


def _export(config: Config) -> Iterator[str]:
    """What a run could not end with."""
    form, kind, dora = config.export.format, config.adapter.kind, config.adapter.dora
    if form in ("kohya", "peft") and kind == "full":
        yield f"export.format is {form}, which is for adapters; adapter.kind=full trains whole networks: leave it out"
    elif form == "peft" and kind not in ("lora", "rank_relaxed", "pivotal", "textual_inversion"):
        yield f"export.format is peft, which has no form for adapter.kind={kind}: kohya has"
    elif dora and (form, dora) in (("kohya", "output"), ("peft", "input")):
        other = {"kohya": "peft", "peft": "kohya"}[form]
        yield f"export.format is {form}, whose readers take adapter.dora={dora} otherwise: export.format={other} has it"


def _sampling(group: str, sampling: SamplingConfig) -> Iterator[str]:
    for name, value in sampling.of_sampler.items():
        if name not in settings_of(sampling.sampler):
            yield f"{group}.{name} is {value}, but the sampler {sampling.sampler} has no use for it: leave it out"
    for name, side in (("height", sampling.height), ("width", sampling.width)):
        if side is not None and side % 8:
            yield f"{group}.{name} is {side}, but must be a multiple of 8, such as 512"


def doubts(config: Config) -> Iterator[str]:
    """What works, but can hardly be meant, one line each."""
    for concept in concepts_of(config):
        template, identifier = concept.instance_prompt, concept.identifier
        if not _names_the_subject(template, identifier):
            yield (
                f"{_key(config, concept, 'instance_prompt')} {shown(template)} has no {{identifier}}: photos without a "
                f"caption of their own change the whole class, and {identifier!r} learns nothing"
            )
    usual = USUAL_RATES.get(config.adapter.kind, 0.0)
    if config.optimizer.learning_rate < LEAST_SHARE * usual:
        yield (
            f"optimizer.learning_rate {config.optimizer.learning_rate:g} is one for whole networks: "
            f"adapter.kind={config.adapter.kind} hardly learns below {LEAST_SHARE * usual:g}, and {usual:g} is usual"
        )
    yield from without_effect(config, DOUBTED)
    power = config.optimizer.power
    if power != OptimizerConfig().power and "polynomial" not in _schedules(config.optimizer):
        yield f"optimizer.power is {power}, but only optimizer.schedule=polynomial has it"
    data = config.data
    if silent := [one for one in expanded(data.templates) if not _names_the_subject(one, "{identifier}")]:
        yield f"data.templates has {shown(silent[0])} without {{identifier}}: it teaches the class, not the subject"
    if data.caption_dropout == 1:
        yield "data.caption_dropout is 1: no photo is ever called by its prompt, so the words learn nothing"
    for key, template, syntax, _ in _templates(config):
        if "class_" in key and not key.startswith("samples.") and "{identifier}" in template:
            yield f"{key} {shown(template)} has {{identifier}}: class images must be called without the subject's word"
        if syntax == "plain" and re.search(r"[{}]", re.sub(r"\{\{|\}\}|\{[^{}]*\}", "", template)):
            yield f"{key} {shown(template)} has a brace without its partner: it is read as it stands, not as a field"


def _templates(config: Config) -> Iterator[tuple[str, str, Syntax, Concept]]:
    """(key, prompt with fields, how it is read, of whom) of all that the run uses."""
    prior, samples = config.prior, config.samples
    for concept in concepts_of(config):
        yield _key(config, concept, "instance_prompt"), concept.instance_prompt, "plain", concept
        for template in expanded(config.data.templates):
            yield "data.templates", template, "plain", concept
        if concept.weight or config.data.dropout_prompt == "class":
            yield _key(config, concept, "class_prompt"), concept.class_prompt, "plain", concept
            images_prompt = concept.class_images_prompt
            yield _key(config, concept, "class_images_prompt"), images_prompt, prior.prompt_syntax, concept
        for template in expanded(prior.prompts):
            yield "prior.prompts", template, "plain", concept
        for key in ("prompts", "class_prompts"):
            for template in expanded(getattr(samples, key)):
                yield f"samples.{key}", template, samples.prompt_syntax, concept


def _key(config: Config, concept: Concept, name: str) -> str:
    """Where a prompt of a concept is said: in its entry, or in the settings of all."""
    shared = f"{'data' if name == 'instance_prompt' else 'prior'}.{name}"
    entries = {f"data.concepts.{number}": one for number, one in enumerate(config.data.concepts)}
    own = concept.key in entries and getattr(entries[concept.key], name) is not None
    return f"{concept.key}.{name}" if own else shared


def _names_the_subject(template: str, identifier: str) -> bool:
    return "{identifier}" in template or identifier.strip() in template


def _words(config: Config) -> Iterator[str]:
    templates = list(_templates(config))
    # of the samples' class prompts it may be missing: they are drawn without, too
    for concept in concepts_of(config):
        if not concept.class_noun.strip() and any(
            "{class_noun}" in template
            for key, template, _, whose in templates
            if key != "samples.class_prompts" and whose == concept
        ):
            key = f"{concept.key}.class_noun"
            yield f"{key} is empty: say what the subject is, such as {key}=dog"
    if config.samples.every and not (config.samples.prompts or config.samples.class_prompts):
        yield "samples.prompts is empty, and samples.class_prompts too: give one, or samples.every=0"
    for key in ("prompts", "class_prompts"):
        if any(not prompt.strip() for prompt in getattr(config.samples, key)):
            yield f"samples.{key} has an empty prompt: leave it out"
    for _, template, syntax, concept in templates:
        subject = Subject(identifier=concept.identifier, class_noun=concept.class_noun)
        subject.fill(template, syntax=syntax)  # raises, naming the unknown field
