# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How pictures are sampled: one class for class images, sample grids, the verb ``sample`` and the pipeline.

A new option of the samplers is a field here and is then a key of ``prior`` and ``samples``, an option of ``sample``, an
argument of the pipeline and a part of every picture's metadata. Its default must be what was done before it existed:
the manifest of class images and the checkpoint of a run that do not know it are read with it.
"""

import dataclasses
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, get_args, get_origin

from dreambooth_jax.config.sampler_names import SAMPLER_NAMES, SCHEDULE_NAMES, read_sampler, read_schedule
from dreambooth_jax.config.setting import Settings, rules_of, setting
from dreambooth_jax.errors import InputError, nearest
from dreambooth_jax.size import Size

C = TypeVar("C", bound="SamplingConfig")  # not typing.Self, which run-time checkers refuse outside classes of theirs

LARGEST_SIDE = 4096
"""Pixels: four times the largest size that a model of this kind was made for."""
LARGEST_TOLD = 2**16
"""Pixels of a picture that a model is told of."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Settings):
    """All that decides a picture, apart from model, prompt and seed."""

    steps: int = setting(50, at_least=1, at_most=10_000)
    """Sampling steps."""
    guidance_scale: float = setting(7.5, at_least=-1000, at_most=1000)
    """How far to lean towards the prompt and away from the negative one; 1 is no guidance."""
    negative_prompt: str = setting("")
    """What not to draw."""
    prompt_syntax: Literal["plain", "a1111"] = "plain"
    """How prompts are read: plain, or as A1111 does: (more:1.3) [less] BREAK, and as long as they are."""
    emphasis: Literal["original", "no_norm"] = "original"
    """Of a1111: whether text states with weights get their mean back (original) or not (no_norm)."""
    wildcards: str | None = setting(None, path=True, nonempty=True)
    """Of a1111: folder of text files; __hats__ in a prompt is a line of hats.txt, drawn from the picture's seed."""
    clip_skip: int = setting(1, at_least=1, at_most=64)
    """The text encoders' layer that is read, from the end, as A1111 counts: 1 is the last; XL begins at 2 anyway."""
    sampler: str = setting("ddim", one_of=tuple(SAMPLER_NAMES))
    """The sampler, by the name of diffusers, A1111 or ComfyUI or by ours: ddim, euler_a, dpmpp_2m, ...; or model."""
    schedule: str = setting("model", one_of=tuple(SCHEDULE_NAMES))
    """Which noise levels the steps visit: karras, sgm_uniform, ...; model: as the model's file or the profile says."""
    profile: Literal["diffusers", "a1111", "comfy"] | None = None
    """Do as this tool does where they differ: rounding, interpolation, first noise, default schedules, last steps."""
    eta: float = setting(0.0, at_least=0, at_most=1, of_sampler=True)
    """Of ddim: 0 is deterministic, 1 adds as much noise as ancestral sampling."""
    ancestral_eta: float = setting(1.0, at_least=0, at_most=1, of_sampler=True)
    """Of ancestral and SDE samplers: 0 is deterministic, 1 adds the noise of their papers."""
    gamma: float = setting(0.3, at_least=0, at_most=1, of_sampler=True)
    """Of tcd: 0 is deterministic, 1 goes to the data and back in each step."""
    guidance_rescale: float = setting(0.0, at_least=0, at_most=1)
    """How far guided predictions get the contrast of those without guidance: against overexposure, 0.7 is usual."""
    noise: Literal["jax", "torch", "philox", "comfy", "invoke"] = "jax"
    """Random numbers: ours, or those of torch on a CPU, of an NVIDIA GPU (philox), of ComfyUI or of InvokeAI."""
    noise_seed_delta: int = setting(0, at_least=1 - 2**31, at_most=2**31 - 1)
    """Added to the seed for the noise of steps, where the noise is another tool's: A1111's ENSD."""
    noise_index: int = setting(0, at_least=0, at_most=1023)
    """Number of the picture in a batch whose noise was drawn at once, as ComfyUI does."""
    height: int | None = setting(None, at_least=1, at_most=LARGEST_SIDE)
    """Pixels, a multiple of 8; by default what the run trains at, or what the model was made for."""
    width: int | None = setting(None, at_least=1, at_most=LARGEST_SIDE)
    """Pixels, a multiple of 8; by default what the run trains at, or what the model was made for."""
    original_height: int | None = setting(None, at_least=1, at_most=LARGEST_TOLD)
    """What models that know of sizes (XL) are told of the picture before it was cut; by default the size drawn."""
    original_width: int | None = setting(None, at_least=1, at_most=LARGEST_TOLD)
    """What models that know of sizes (XL) are told of the picture before it was cut; by default the size drawn."""
    crop_top: int = setting(0, at_least=0, at_most=LARGEST_TOLD)
    """How many pixels models that know of sizes (XL) are told were cut off above; more lets it cut its subject."""
    crop_left: int = setting(0, at_least=0, at_most=LARGEST_TOLD)
    """How many pixels models that know of sizes (XL) are told were cut off at the left."""
    target_height: int | None = setting(None, at_least=1, at_most=LARGEST_TOLD)
    """What models that know of sizes (XL) are told that they draw; by default the size drawn."""
    target_width: int | None = setting(None, at_least=1, at_most=LARGEST_TOLD)
    """What models that know of sizes (XL) are told that they draw; by default the size drawn."""

    def __post_init__(self) -> None:
        """Names of other tools become ours; a schedule in the sampler's name counts if no other is told."""
        super().__post_init__()
        named = read_sampler(self.sampler)
        schedule = read_schedule(self.schedule)
        object.__setattr__(self, "sampler", named.sampler)
        object.__setattr__(self, "schedule", named.schedule if named.schedule and schedule == "model" else schedule)

    def told_sizes(self, drawn: Size) -> tuple[int, ...]:
        """What a model is told that knows of sizes, in the order of ``Condition.sizes``.

        Args:
            drawn: height and width of the picture.
        """
        original = self.original_height or drawn.height, self.original_width or drawn.width
        target = self.target_height or drawn.height, self.target_width or drawn.width
        return *original, self.crop_top, self.crop_left, *target

    @property
    def of_sampler(self) -> dict[str, Any]:
        """Settings that only some samplers have, where they are not what they are by default."""
        own = [field for field in dataclasses.fields(SamplingConfig) if rules_of(field).of_sampler]
        values = {field.name: getattr(self, field.name) for field in own}
        return {field.name: values[field.name] for field in own if values[field.name] != field.default}

    def sampling(self, *, size: Size | None = None) -> "SamplingConfig":
        """These settings without those that a class below adds.

        Args:
            size: for height and width that are not set.
        """
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(SamplingConfig)}
        for name, side in size._asdict().items() if size else ():
            values[name] = side if values[name] is None else values[name]
        return SamplingConfig(**values)

    def changed(self: C, options: dict[str, Any]) -> C:
        """With some options set; whole numbers are real numbers, too.

        Raises:
            TypeError: for an option that there is not.
            InputError: for a value that is none of a few to choose from, or of the wrong type.
        """
        kinds = {field.name: field.type for field in dataclasses.fields(self)}
        values = {name: _as_kind(name, value, kinds.get(name)) for name, value in options.items()}
        return dataclasses.replace(self, **values)


def _as_kind(name: str, value: Any, kind: Any) -> Any:
    """An option from Python as what its field holds: also numpy's numbers."""
    if kind is None or (value is None and type(None) in get_args(kind)):
        return value
    literal = next((one for one in (kind, *get_args(kind)) if get_origin(one) is Literal), None)
    if literal or str in (kind, *get_args(kind)):
        if not isinstance(value, str):
            raise InputError(f"{name} = {value!r}: must be a text")
        if literal and value not in (names := get_args(literal)):
            raise InputError(f"{name} = {value!r}: choose one of {', '.join(names)}{nearest(value, names)}")
        return value
    given = value.item() if getattr(value, "ndim", None) == 0 else value
    kind = next((one for one in (bool, float, int) if one in (kind, *get_args(kind))), kind)
    if kind is bool and isinstance(given, bool):
        return given
    if kind is float and isinstance(given, Real) and not isinstance(given, bool):
        return float(given)
    if kind is int and isinstance(given, Integral) and not isinstance(given, bool):
        return int(given)
    wanted = "number" if kind is float else "whole number" if kind is not bool else "bool, True or False"
    raise InputError(f"{name} = {value!r}: must be a {wanted}")
