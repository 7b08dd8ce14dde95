# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""May this run go on from that checkpoint? Only if nothing that changes the result has changed."""

from collections.abc import Mapping, Sequence
from typing import Any

from dreambooth_jax.config import Config, to_dict
from dreambooth_jax.config.setting import resumable_keys
from dreambooth_jax.errors import InputError

FINGERPRINTS = {
    "model": "the weights of the model",
    "instance": "the instance images or their captions",
    "prior": "the class images or their captions",
}


ENDLESS = ("constant", "inverse_sqrt")
"""Schedules that do not depend on how many steps there are."""

PAST = ("samples", "checkpoint")
"""Groups of settings that say what happens during a run, and nothing after it."""


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """``{"train": {"steps": 1}}`` -> ``{"train.steps": 1}``."""
    out: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            out.update({f"{name}.{key}": inner for key, inner in value.items()})
        else:
            out[name] = value
    return out


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Keys whose change makes another run of it.

    A setting that the older config does not know had its default. More steps are the same run as long as neither the
    schedule nor the text encoder's stretch is measured by them.
    """
    defaults = flat(to_dict(Config()))
    a, b = defaults | flat(old), defaults | flat(new)
    free = set(resumable_keys(Config))
    endless = b["optimizer.schedule"] in ENDLESS and "schedule=" not in str(b["optimizer.rules"])
    if endless and b["text_encoder.stop"] >= 0:
        free.add("train.steps")
    return sorted(key for key in (a.keys() | b.keys()) - free if a.get(key) != b.get(key))


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
    defaults = flat(to_dict(Config()))
    old, new = defaults | flat(meta["config"]), defaults | flat(config)
    parts = [f"{key} was {old.get(key)!r} and is {new.get(key)!r}" for key in changed_keys(meta["config"], config)]
    stored = meta["fingerprints"]
    parts += [f"{FINGERPRINTS[name]} changed" for name, value in fingerprints.items() if stored.get(name) != value]
    if parts:
        raise InputError(
            f"cannot resume at step {meta['step']}: {'; '.join(parts)}; change it back, or choose another run_dir"
        )
