# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What diffusers would do with a ``scheduler_config.json``: its class is a sampler, its other keys are options.

A missing key means what it means to that class. A key that asks for what we don't have is named.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from dreambooth_jax.diffusion.sampler_defaults import SamplerDefaults
from dreambooth_jax.diffusion.schedule import FILE
from dreambooth_jax.errors import InputError

Content = Mapping[str, Any]


class Choice(NamedTuple):
    """A sampler with all that the file says about it."""

    sampler: str
    options: Mapping[str, Any] = {}
    """Of its rows."""
    spacing: str = "model"
    final: str | None = None
    """``zero``, ``sigma_min``, or what the sampler does by itself."""
    defaults: Mapping[str, Any] = {}
    """Fields of ``SamplerDefaults`` that mean something else to this class than to DDIM."""


FORMULAS = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta",
    "use_lu_lambdas": "exponential",
}
"""Keys that put a formula in the place of the model's spacing."""

_FORMULAS = frozenset(FORMULAS) - {"use_lu_lambdas"}
_ALL = frozenset({*_FORMULAS, "final_sigmas_type"})
_FIELDS = frozenset(field.name for field in fields(SamplerDefaults))


class SchedulerClass(NamedTuple):
    """A class of diffusers."""

    sampler: Callable[[Content], str]
    options: Callable[[Content], Mapping[str, Any]] = lambda config: {}
    known: frozenset[str] = frozenset()
    """Which formulas, and whether ``final_sigmas_type``, it knows; others are left over from another class."""
    missing: Mapping[str, Any] = {"timestep_spacing": "linspace"}
    """What keys mean that the file does not state, where it is not what they mean to DDIM."""
    forced: Mapping[str, Any] = {}
    """What keys mean whatever the file states, because it does not know them."""
    only: Mapping[str, tuple[Any, ...]] = {}
    """The only values of keys that we have; the first is what a missing one means."""


def choice_of(config: Content) -> Choice:
    """What a file asks for.

    Raises:
        InputError: naming the class or the key that asks for something we don't have.
    """
    stated = {key: value for key, value in config.items() if value is not None}
    name = str(stated.get("_class_name", "DDIMScheduler")).removeprefix("Flax")
    if name not in CLASSES:
        raise InputError(f"{FILE}: _class_name = {name!r} is none of our samplers: choose one with sampler=NAME")
    kind = CLASSES[name]
    given = {**kind.missing, **stated, **kind.forced}
    only = {**kind.only, **({"final_sigmas_type": ("zero", "sigma_min")} if "final_sigmas_type" in kind.known else {})}
    for key, values in only.items():
        _check(name, key, given.get(key, values[0]), values.__contains__)
    for key, fits in TYPES.items():
        if key in given:
            _check(name, key, given[key], fits)
    return Choice(
        sampler=kind.sampler(given),
        options=kind.options(given),
        spacing=next((spacing for key, spacing in FORMULAS.items() if key in kind.known and given.get(key)), "model"),
        final=given.get("final_sigmas_type") if "final_sigmas_type" in kind.known else None,
        defaults={key: given[key] for key in {*kind.missing, *kind.forced} & _FIELDS},
    )


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(one, int) for one in value)


TYPES: Mapping[str, Callable[[Any], bool]] = {
    "timestep_scaling": lambda value: isinstance(value, (int, float)) and 0 < value < 1e6,
    "disable_corrector": _is_list,
}
"""What else options must be."""


def _check(name: str, key: str, value: Any, fits: Callable[[Any], bool]) -> None:
    if not fits(value):
        raise InputError(f"{FILE}: {key} = {value!r} of {name} is not supported: choose a sampler with sampler=NAME")


def _dpm_multistep(config: Content) -> str:
    if config.get("algorithm_type", "dpmsolver++") != "sde-dpmsolver++":
        return "dpmpp_2m"
    return "dpmpp_2m_sde"


def _dpm_options(config: Content) -> dict[str, Any]:
    return {
        "order": config.get("solver_order", 2),
        "solver": "heun" if config.get("solver_type") == "heun" else "midpoint",
        "lower_order_final": config.get("lower_order_final", True),
        "euler_at_final": config.get("euler_at_final", False),
    }


def _unipc_options(config: Content) -> dict[str, Any]:
    return {
        "order": config.get("solver_order", 2),
        "variant": "bh1" if config.get("solver_type") == "bh1" else "bh2",
        "lower_order_final": config.get("lower_order_final", True),
        "uncorrected": tuple(config.get("disable_corrector", ())),
    }


def _deis_options(config: Content) -> dict[str, Any]:
    return {"order": config.get("solver_order", 2), "lower_order_final": config.get("lower_order_final", True)}


def _named(sampler: str, **keys: Any) -> SchedulerClass:
    return SchedulerClass(lambda config: sampler, **keys)


_ORDERS = {"solver_order": (2, 1, 3)}
_UNCLIPPED = {"lambda_min_clipped": (float("-inf"), "-inf", "-Infinity")}
_LEADING = {"timestep_spacing": "leading"}
_ORIGINAL_STEPS = {"original_inference_steps": (50,)}
_DDIM = _named("ddim", missing=_LEADING)
_DDPM = _named(
    "ddpm",
    missing=_LEADING,
    options=lambda config: {"large": config.get("variance_type") == "fixed_large"},
    only={"variance_type": ("fixed_small", "fixed_large")},
)

CLASSES: Mapping[str, SchedulerClass] = {
    "DDIMScheduler": _DDIM,
    "DDIMParallelScheduler": _DDIM,
    "DDPMScheduler": _DDPM,
    "DDPMParallelScheduler": _DDPM,
    "PNDMScheduler": _named(
        "plms",
        missing={**_LEADING, "set_alpha_to_one": False, "skip_prk_steps": False},
        only={"skip_prk_steps": (True,)},
    ),
    "EulerDiscreteScheduler": _named(
        "euler", known=_ALL, only={"interpolation_type": ("linear",), "timestep_type": ("discrete",)}
    ),
    "EulerAncestralDiscreteScheduler": _named("euler_a"),
    "HeunDiscreteScheduler": _named("heun", known=_FORMULAS),
    "LMSDiscreteScheduler": _named("lms", known=_FORMULAS),
    "KDPM2DiscreteScheduler": _named("dpm2", known=_FORMULAS),
    "KDPM2AncestralDiscreteScheduler": _named("dpm2_a", known=_FORMULAS),
    "DPMSolverSDEScheduler": _named("dpmpp_sde", known=_FORMULAS),
    "DPMSolverSinglestepScheduler": _named(
        "dpmpp_2s",
        options=lambda config: {"solver": "heun" if config.get("solver_type") == "heun" else "midpoint"},
        known=_ALL,
        forced={"timestep_spacing": "linspace"},
        only={"algorithm_type": ("dpmsolver++", "deis"), "solver_order": (2,), **_UNCLIPPED},
    ),
    "DPMSolverMultistepScheduler": SchedulerClass(
        _dpm_multistep,
        _dpm_options,
        known=_ALL | {"use_lu_lambdas"},
        only={"algorithm_type": ("dpmsolver++", "sde-dpmsolver++", "deis"), **_ORDERS, **_UNCLIPPED},
    ),
    "UniPCMultistepScheduler": _named(
        "unipc", options=_unipc_options, known=_ALL, only={**_ORDERS, "predict_x0": (True,), "solver_p": (None,)}
    ),
    "DEISMultistepScheduler": _named("deis", options=_deis_options, known=_FORMULAS, only=_ORDERS),
    "LCMScheduler": _named(
        "lcm",
        options=lambda config: {"timestep_scaling": float(config.get("timestep_scaling", 10.0))},
        only=_ORIGINAL_STEPS,
    ),
    "TCDScheduler": _named("tcd", only=_ORIGINAL_STEPS),
}
"""Those that have betas and that Stable Diffusion is used with."""
