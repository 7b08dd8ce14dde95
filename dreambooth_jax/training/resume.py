# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""May this run go on from that checkpoint? Only if nothing that changes the result has changed."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from dreambooth_jax.config import Config, to_dict
from dreambooth_jax.config.concept_entries import ConceptConfig
from dreambooth_jax.config.setting import resumable_keys
from dreambooth_jax.errors import InputError
from dreambooth_jax.training.optimizer_kinds import KINDS

FINGERPRINTS = {
    "model": "the weights of the model",
    "instance": "the instance images, their captions or weights",
    "prior": "the class images, their captions or weights",
    "validation": "the pictures to validate with, or their captions",
}


ENDLESS = ("constant", "inverse_sqrt")
"""Schedules that do not depend on how many steps there are."""

PAST = ("samples", "checkpoint", "evaluate")
"""Groups of settings that say what happens during a run, and nothing after it."""


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"train": {"steps": 1}}`` -> ``{"train.steps": 1}``; of lists of groups, entries have numbers."""
    out: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            out |= flat(value, f"{key}.")
        elif isinstance(value, list) and all(isinstance(one, Mapping) for one in value):
            out[key] = [] if key in LISTS else value
            for number, one in enumerate(value):
                out |= flat(one, f"{key}.{number}.")
        else:
            out[key] = value
    return out


LISTS = {"data.concepts": to_dict(ConceptConfig())}
"""Lists of groups of settings, with the defaults of an entry."""


def _defaults(*configs: Mapping[str, Any]) -> dict[str, Any]:
    """Of all settings, those of every entry of a list in one of these configs included."""
    found = flat(to_dict(Config()))
    for key, default in LISTS.items():
        group, _, name = key.partition(".")
        lists = [config.get(group, {}).get(name, []) for config in configs]
        most = max((len(one) for one in lists if isinstance(one, list)), default=0)
        found |= {f"{key}.{i}.{entry}": value for i in range(most) for entry, value in default.items()}
    return found


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Keys whose change makes another run of it.

    A setting that the older config does not know had its default. More steps are the same run as long as neither the
    schedule nor the text encoder's stretch is measured by them.
    """
    defaults = _defaults(old, new)
    a, b = defaults | flat(old), defaults | flat(new)
    free = set(resumable_keys(Config))
    measured = b["optimizer.kind"] in KINDS and KINDS[b["optimizer.kind"]].measured
    endless = not measured and b["optimizer.schedule"] in ENDLESS and "schedule=" not in str(b["optimizer.rules"])
    if endless and b["text_encoder.stop"] >= 0:
        free.add("train.steps")
    changed = (key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
    return sorted(key for key in changed if re.sub(r"\.\d+\.", ".", key) not in free)


def changed_past(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Changed settings that a finished run cannot follow any more, each with both values."""
    was, now = flat(old), flat(new)
    keys = [key for key in now if key.split(".")[0] in PAST and key in was and was[key] != now[key]]
    return [f"{key}={now[key]} (was {was[key]})" for key in keys]


def check_not_beyond(meta: Mapping[str, Any], *, steps: int, kept: Sequence[int]) -> None:
    """Refuse to call a run of more steps one of fewer.

    Args:
        meta: of the newest checkpoint.
        steps: that the run should have.
        kept: steps of all checkpoints.

    Raises:
        InputError: if the checkpoint has taken more.
    """
    if meta["step"] <= steps:
        return
    near = max((step for step in kept if step <= steps), default=None)
    way = f", or export the checkpoint of step {near} (--step {near})" if near is not None else ""
    raise InputError(
        f"train.steps is {steps}, but this run has taken {meta['step']} steps already: set train.steps to at least "
        f"{meta['step']}, or choose another run_dir{way}"
    )


def check_same_run(meta: Mapping[str, Any], *, config: Mapping[str, Any], fingerprints: Mapping[str, str]) -> None:
    """Compare with what a checkpoint says of its run.

    Args:
        meta: of the checkpoint: ``config``, ``fingerprints`` and ``step``.
        config: the resolved config of now.
        fingerprints: of model, instance and class images, now; those that are not given are not compared.

    Raises:
        InputError: naming every key that differs, with both values.
    """
    defaults = _defaults(meta["config"], config)
    old, new = defaults | flat(meta["config"]), defaults | flat(config)
    parts = [f"{key} was {old.get(key)!r} and is {new.get(key)!r}" for key in changed_keys(meta["config"], config)]
    stored = meta["fingerprints"]
    parts += [f"{FINGERPRINTS[name]} changed" for name, value in fingerprints.items() if stored.get(name) != value]
    if parts:
        raise InputError(
            f"cannot resume at step {meta['step']}: {'; '.join(parts)}; change it back, or choose another run_dir"
        )
