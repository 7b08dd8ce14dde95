# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What can be known to be wrong from the settings alone, before a file is read or anything is compiled."""

from collections.abc import Iterator

from dreambooth_jax.config import Config, OptimizerConfig
from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.errors import InputError

UNUSED = {"adamw": (), "lion": ("eps",), "adafactor": ("beta1", "beta2", "eps", "moments")}
"""Settings that an optimizer does not have."""


def check_config(config: Config) -> None:
    """Raise InputError for the first setting that cannot work, with the way out."""
    for problem in problems(config):
        raise InputError(problem)


def problems(config: Config) -> Iterator[str]:
    """All of them, one line each."""
    at_least = {
        "train.steps": (config.train.steps, 1),
        "train.batch_size": (config.train.batch_size, 1),
        "train.accumulation": (config.train.accumulation, 1),
        "train.fsdp_devices": (config.train.fsdp_devices, 0),
        "train.log_every": (config.train.log_every, 1),
        "checkpoint.every": (config.checkpoint.every, 1),
        "checkpoint.keep_last": (config.checkpoint.keep_last, 1),
        "samples.every": (config.samples.every, 0),
        "samples.num_images": (config.samples.num_images, 1),
        "samples.steps": (config.samples.steps, 1),
        "prior.num_images": (config.prior.num_images, 1),
        "prior.batch_size": (1 if config.prior.batch_size is None else config.prior.batch_size, 1),
        "prior.steps": (config.prior.steps, 1),
        "prior.weight": (config.prior.weight, 0),
        "optimizer.learning_rate": (config.optimizer.learning_rate, 0),
        "optimizer.warmup_steps": (config.optimizer.warmup_steps, 0),
        "optimizer.weight_decay": (config.optimizer.weight_decay, 0),
        "text_encoder.start": (config.text_encoder.start, 0),
        "text_encoder.stop": (config.text_encoder.stop, -1),
    }
    for key, (value, least) in at_least.items():
        if not value >= least:
            yield f"{key} is {value}, but must be at least {least}"
    fractions = {"train.ema_decay": config.train.ema_decay, "optimizer.beta1": config.optimizer.beta1}
    if config.optimizer.beta2 is not None:
        fractions["optimizer.beta2"] = config.optimizer.beta2
    for key, value in fractions.items():
        if not 0 <= value < 1:
            yield f"{key} is {value}, but must be at least 0 and below 1"
    if config.train.device_memory is not None and not config.train.device_memory > 0:
        yield f"train.device_memory is {config.train.device_memory}, but must be above 0; null asks the device"
    if config.data.resolution < 8 or config.data.resolution % 8:
        yield f"data.resolution is {config.data.resolution}, but must be a multiple of 8, such as 512"
    if config.optimizer.clip_norm is not None and not config.optimizer.clip_norm > 0:
        yield f"optimizer.clip_norm is {config.optimizer.clip_norm}, but must be above 0; null does not clip"
    for name in UNUSED[config.optimizer.kind]:
        value = getattr(config.optimizer, name)
        if value != getattr(OptimizerConfig(), name):
            yield f"optimizer.{name} is {value}, but {config.optimizer.kind} has no use for it: leave it out"
    start, stop, steps = config.text_encoder.start, config.text_encoder.stop, config.train.steps
    if stop != 0 and start >= (steps if stop == -1 else min(stop, steps)):
        yield f"text_encoder.start {start} is not before text_encoder.stop {stop} and the end, train.steps {steps}"
    yield from _words(config)


def _words(config: Config) -> Iterator[str]:
    if not config.data.identifier.strip():
        yield "data.identifier is empty: choose a rare word such as sks"
    templates = [config.data.instance_prompt, *config.samples.prompts]
    if config.prior.weight:
        templates += [config.prior.class_prompt, config.prior.class_images_prompt or ""]
    if not config.data.class_noun.strip() and any("{class_noun}" in template for template in templates):
        yield "data.class_noun is empty: say what the subject is, such as data.class_noun=dog"
    subject = Subject(identifier=config.data.identifier, class_noun=config.data.class_noun)
    for template in [*templates, *config.samples.class_prompts]:
        subject.fill(template)  # raises, naming the unknown field
