# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What the file of an adapter says of the run that it comes from, in sd-scripts' words: A1111 and galleries show it.

Nothing in it depends on when or where the run was: the same run is the same file.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreambooth_jax.config import Config
from dreambooth_jax.config.concepts import concepts_of, makes_class_images
from dreambooth_jax.data.captions import tag_counts
from dreambooth_jax.weights.modelspec import PREFIX


def run_metadata(config: Config, *, step: int, pictures: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The metadata.

    Args:
        config: of the run.
        step: steps that were taken.
        pictures: what the run says of its pictures, as its checkpoints have it; None where that is not known.
    """
    size, concepts = config.data.size, concepts_of(config)
    subjects = [f"{one.identifier} {one.class_noun}".strip() for one in concepts]
    texts = {
        **_training(config, step),
        **_objective(config),
        **_pictures(config, subjects, pictures),
        "ss_output_name": Path(config.run_dir).name,
        "ss_sd_model_name": Path(config.model.path).name,
        "ss_resolution": str((size.width, size.height)),
    }
    said = {name: str(value) for name, value in texts.items()}
    return said | {
        f"{PREFIX}resolution": f"{size.width}x{size.height}",
        f"{PREFIX}trigger_phrase": ", ".join(subjects),
        f"{PREFIX}tags": ", ".join(("dreambooth", *(one.class_noun for one in concepts if one.class_noun))),
        f"{PREFIX}description": f"DreamBooth of {', '.join(subjects)}, {step} steps, by dreambooth_jax",
    }


def metadata_of_words(said: Mapping[str, str], config: Config) -> dict[str, str]:
    """What files of new words say, where an adapter's would say this: no network learned in them, and at what rate the
    words did."""
    rates = {"ss_learning_rate": config.tokens.learning_rate, "ss_unet_lr": None, "ss_text_encoder_lr": None}
    return {**said, **{name: str(rate) for name, rate in rates.items()}}


def _pictures(config: Config, subjects: Sequence[str], pictures: Mapping[str, Any] | None) -> dict[str, object]:
    """How many there are, as sd-scripts count: photos as often as an epoch has them."""
    repeats = [one.repeats or 1 for one in concepts_of(config)]
    # as folders of sd-scripts are called: repeats_name
    folders = [f"{count}_{subject}" for count, subject in zip(repeats, subjects)]
    if pictures is None:
        return {
            "ss_num_train_images": None,
            "ss_num_reg_images": None if makes_class_images(config) else 0,
            "ss_tag_frequency": json.dumps(dict(zip(folders, (tag_counts([subject]) for subject in subjects)))),
        }
    counts = [one["photos"] for one in pictures["subjects"]]
    dirs = [{"n_repeats": many, "img_count": count} for many, count in zip(repeats, counts)]
    # A1111 offers these for the prompt, and how often each is
    tags = [one["tags"] for one in pictures["subjects"]]
    return {
        "ss_num_train_images": sum(many * count for many, count in zip(repeats, counts)),
        "ss_num_reg_images": pictures["class_images"],
        "ss_tag_frequency": json.dumps(dict(zip(folders, tags))),
        "ss_dataset_dirs": json.dumps(dict(zip(folders, dirs))),
    }


def _training(config: Config, step: int) -> dict[str, object]:
    """Steps, rates and the like, by sd-scripts' names."""
    train, optimizer, text = config.train, config.optimizer, config.text_encoder
    text_rate = optimizer.learning_rate if text.learning_rate is None else text.learning_rate
    return {
        "ss_steps": step,
        "ss_max_train_steps": train.steps,
        "ss_learning_rate": optimizer.learning_rate,
        "ss_unet_lr": optimizer.learning_rate,
        "ss_text_encoder_lr": text_rate if text.stop else None,
        "ss_optimizer": optimizer.kind,
        "ss_lr_scheduler": optimizer.schedule,
        "ss_lr_warmup_steps": optimizer.warmup_steps,
        "ss_max_grad_norm": optimizer.clip_norm,
        "ss_total_batch_size": train.batch_size,
        "ss_gradient_accumulation_steps": train.accumulation,
        "ss_gradient_checkpointing": train.remat != "nothing",
        "ss_mixed_precision": {"bfloat16": "bf16", "float32": "no"}.get(train.dtype, train.dtype),
        "ss_seed": train.seed,
        "ss_prior_loss_weight": config.prior.weight,
        "ss_flip_aug": config.data.flip,
        "ss_random_crop": config.data.crop == "random",
        "ss_clip_skip": None,
    }


def _objective(config: Config) -> dict[str, object]:
    objective = config.objective
    return {
        "ss_min_snr_gamma": objective.snr_gamma if objective.weighting == "min_snr" else None,
        "ss_noise_offset": objective.noise_offset or None,
        "ss_ip_noise_gamma": objective.input_perturbation or None,
        "ss_zero_terminal_snr": objective.zero_terminal_snr,
        "ss_loss_type": {"mse": "l2"}.get(objective.loss, objective.loss),
        "ss_debiased_estimation": objective.weighting == "debiased",
    }
