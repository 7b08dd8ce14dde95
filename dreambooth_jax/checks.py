# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What can be known to be wrong from the settings alone, before a file is read or anything is compiled.

Bounds of single settings stand at their fields; here is what settings must be to each other.
"""

from collections.abc import Iterator

from dreambooth_jax.config import Config, OptimizerConfig, SamplingConfig
from dreambooth_jax.config.setting import broken
from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.diffusion.samplers import settings_of
from dreambooth_jax.errors import InputError

UNUSED = {"adamw": (), "lion": ("eps",), "adafactor": ("beta1", "beta2", "eps", "moments")}
"""Settings that an optimizer does not have."""


def check_config(config: Config) -> None:
    """Raise InputError for the first setting that cannot work, with the way out."""
    for problem in problems(config):
        raise InputError(problem)


def problems(config: Config) -> Iterator[str]:
    """All of them, one line each."""
    for key, value, rule in broken(config):
        yield f"{key} is {value}, but must be {rule}"
    for name in UNUSED[config.optimizer.kind]:
        value = getattr(config.optimizer, name)
        if value != getattr(OptimizerConfig(), name):
            yield f"optimizer.{name} is {value}, but {config.optimizer.kind} has no use for it: leave it out"
    yield from _sampling("prior", config.prior)
    yield from _sampling("samples", config.samples)
    start, stop, steps = config.text_encoder.start, config.text_encoder.stop, config.train.steps
    if stop != 0 and start >= (steps if stop == -1 else min(stop, steps)):
        yield f"text_encoder.start {start} is not before text_encoder.stop {stop} and the end, train.steps {steps}"
    yield from _words(config)


def _sampling(group: str, sampling: SamplingConfig) -> Iterator[str]:
    for name, value in sampling.of_sampler.items():
        if name not in settings_of(sampling.sampler):
            yield f"{group}.{name} is {value}, but the sampler {sampling.sampler} has no use for it: leave it out"
    for name, side in (("height", sampling.height), ("width", sampling.width)):
        if side is not None and side % 8:
            yield f"{group}.{name} is {side}, but must be a multiple of 8, such as 512"


def _words(config: Config) -> Iterator[str]:
    templates = [config.data.instance_prompt, *config.samples.prompts]
    if config.prior.weight:
        templates += [config.prior.class_prompt, config.prior.class_images_prompt or ""]
    if not config.data.class_noun.strip() and any("{class_noun}" in template for template in templates):
        yield "data.class_noun is empty: say what the subject is, such as data.class_noun=dog"
    subject = Subject(identifier=config.data.identifier, class_noun=config.data.class_noun)
    for template in [*templates, *config.samples.class_prompts]:
        subject.fill(template)  # raises, naming the unknown field
