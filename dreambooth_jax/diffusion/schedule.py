# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The noise schedule of a model.

    ᾱ_t = Π_{s ≤ t} (1 − β_s),    x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε,    t = 0 … T − 1

β is what the model was trained with, so any scheduler of diffusers that carries betas (PNDM, DDIM, Euler, DPM, their
legacy Flax namesakes) describes the same model. Tables are numpy, float32, rounded where PyTorch rounds: equal to its
own to the last bit or nearly, which matters where 1 − ᾱ_t is small.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float32, Float64

from dreambooth_jax.diffusion.sampler_defaults import SamplerDefaults
from dreambooth_jax.errors import InputError

PredictionType: TypeAlias = Literal["epsilon", "sample", "v_prediction"]

FILE = "scheduler_config.json"

CHOICES: Mapping[str, Sequence[Any]] = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": ("epsilon", "sample", "v_prediction"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
    "thresholding": (False,),
    "use_flow_sigmas": (False,),
}
"""Keys of which only these values are supported."""

DEFAULTS: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "set_alpha_to_one": True,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "rescale_betas_zero_snr": False,
}
"""What a missing key means: what it means to diffusers' ``DDIMScheduler``, with two exceptions.

That class's ``clip_sample = True`` and ``steps_offset = 0`` are for pixels. ``StableDiffusionPipeline`` calls a file
without these keys outdated and takes False and 1, so that is what users get, and what we do.
"""

IN_PIPELINES: Mapping[str, Any] = {"clip_sample": False, "steps_offset": 1}
"""What ``StableDiffusionPipeline`` replaces a stated value with, too. Old exports and conversions state others."""

KINDS: Mapping[type, Sequence[type]] = {
    bool: (bool,),
    int: (int,),
    float: (float, int),
    str: (str,),
    type(None): (list, tuple),
}
"""Types that JSON may give in the place of a default's."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NoiseSchedule:
    """What ``scheduler_config.json`` says about a model, and beside it what it says about samplers."""

    alphas_cumprod: Float32[np.ndarray, "T"]
    """ᾱ_t, falling; the last is exactly 0 where the schedule has zero terminal SNR."""
    prediction_type: PredictionType = "epsilon"
    """What the network predicts: ε, x_0 or v = √ᾱ ε − √(1 − ᾱ) x_0."""
    sampling: SamplerDefaults = field(default_factory=SamplerDefaults)
    """What samplers do that are not told otherwise."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """All of the file, for what it says of a sampler of its own."""

    @classmethod
    def from_config(cls, raw: Mapping[str, Any]) -> "NoiseSchedule":
        """From the content of a ``scheduler_config.json`` of any class that has betas.

        Settings of other samplers (Karras sigmas, solver orders, …) are not read. ``DEFAULTS`` says what missing keys
        mean; null counts as missing.

        Raises:
            InputError: naming the key that asks for something we don't have, or the class if it has no betas.
        """
        config = _read(raw)
        betas = _betas(config)
        return cls(
            alphas_cumprod=_cumprod(1 - (zero_terminal_snr(betas) if config["rescale_betas_zero_snr"] else betas)),
            prediction_type=config["prediction_type"],
            config=raw,
            sampling=SamplerDefaults(
                timestep_spacing=config["timestep_spacing"],
                steps_offset=config["steps_offset"],
                set_alpha_to_one=config["set_alpha_to_one"],
                clip_sample=config["clip_sample"],
                clip_sample_range=float(config["clip_sample_range"]),
            ),
        )

    @property
    def num_train_timesteps(self) -> int:
        """T."""
        return len(self.alphas_cumprod)

    def timesteps(self, steps: int, *, fractional: bool = False) -> Float64[np.ndarray, "{steps}"]:
        """As :meth:`SamplerDefaults.timesteps`, of all that the model was trained with."""
        return self.sampling.timesteps(steps, self.num_train_timesteps, fractional=fractional)


def as_in_pipelines(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A ``scheduler_config.json`` as ``StableDiffusionPipeline`` uses it, whatever it states."""
    return {key: IN_PIPELINES.get(key, value) for key, value in raw.items()}


_MOST_TIMESTEPS = 1_000_000


def zero_terminal_snr(betas: Float32[np.ndarray, "T"]) -> Float32[np.ndarray, "T"]:
    """Shift and scale √ᾱ so that the last is 0 and the first stays (algorithm 1 of arXiv 2305.08891)."""
    root = np.sqrt(_cumprod(1 - betas))
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    bar = root**2
    return 1 - np.concatenate([bar[:1], bar[1:] / bar[:-1]])


def _read(raw: Mapping[str, Any]) -> dict[str, Any]:
    name = raw.get("_class_name")
    if name is not None and not raw.keys() & {"beta_start", "beta_end", "beta_schedule", "trained_betas"}:
        raise InputError(f"{FILE}: _class_name = {name!r} has no betas; only models trained with betas are supported")
    given = {key: value for key, value in raw.items() if value is not None}
    for key, known in CHOICES.items():
        if key in given and given[key] not in known:
            raise InputError(f"{FILE}: {key} = {given[key]!r} is not supported, only {', '.join(map(repr, known))}")
    for key, default in DEFAULTS.items():
        if key in given and type(given[key]) not in KINDS[type(default)]:
            raise InputError(f"{FILE}: {key} = {given[key]!r} is of the wrong type; its default is {default!r}")
    config = {**DEFAULTS, **given}
    if not 1 <= config["num_train_timesteps"] <= _MOST_TIMESTEPS:
        raise InputError(
            f"{FILE}: num_train_timesteps = {config['num_train_timesteps']} must be 1 to {_MOST_TIMESTEPS}"
        )
    if not (math.isfinite(config["clip_sample_range"]) and config["clip_sample_range"] > 0):
        raise InputError(f"{FILE}: clip_sample_range = {config['clip_sample_range']} must be a finite number above 0")
    for key in ("beta_start", "beta_end"):
        if not 0 < config[key] <= 1:
            raise InputError(f"{FILE}: {key} = {config[key]!r} must be between 0 and 1")
    return config


def _betas(config: Mapping[str, Any]) -> Float32[np.ndarray, "T"]:
    count, start, end = config["num_train_timesteps"], config["beta_start"], config["beta_end"]
    if config["trained_betas"] is not None:
        betas = np.asarray(config["trained_betas"], np.float32)
        if betas.shape != (count,) or not np.all((betas > 0) & (betas <= 1)):
            raise InputError(f"{FILE}: trained_betas must be num_train_timesteps = {count} numbers between 0 and 1")
        return betas
    if config["beta_schedule"] == "linear":
        return _linspace(start, end, count)
    if config["beta_schedule"] == "scaled_linear":
        return _linspace(start**0.5, end**0.5, count) ** 2
    bar = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.minimum(1 - bar[1:] / bar[:-1], 0.999).astype(np.float32)


def _linspace(start: float | int, end: float | int, count: int) -> Float32[np.ndarray, "T"]:
    # As PyTorch does it: one float32 step, walked from both ends to the middle.
    first, last = np.float32(start), np.float32(end)
    step = np.float64((last - first) / np.float32(max(count - 1, 1)))
    i = np.arange(count)
    return np.where(i < count / 2, first + step * i, last - step * (count - 1 - i)).astype(np.float32)


def _cumprod(factors: Float32[np.ndarray, "T"]) -> Float32[np.ndarray, "T"]:
    return np.cumprod(factors, dtype=np.float64).astype(np.float32)
