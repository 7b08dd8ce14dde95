# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Our own pictures' text: A1111's, which other tools read, and JSON with all that made the picture."""

import json
import re
from collections.abc import Mapping
from typing import Any

from dreambooth_jax._version import __version__
from dreambooth_jax.data.added_words import split
from dreambooth_jax.metadata.infotext import write_infotext
from dreambooth_jax.prompts.emphasis import escaped
from dreambooth_jax.size import Size

KEYWORD = "dreambooth_jax"
"""Of the chunk with the JSON."""

SAMPLERS = {
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "lms": "LMS",
    "dpm2": "DPM2",
    "dpm2_a": "DPM2 a",
    "dpmpp_2s": "DPM++ 2S",
    "dpmpp_2s_a": "DPM++ 2S a",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_sde": "DPM++ SDE",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2m_sde_heun": "DPM++ 2M SDE Heun",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
    "unipc": "UniPC",
}
"""What A1111 calls samplers; all others have our name in capitals there."""

SCHEDULES = {
    "karras": "Karras",
    "exponential": "Exponential",
    "polyexponential": "Polyexponential",
    "uniform": "Uniform",
    "sgm_uniform": "SGM Uniform",
    "simple": "Simple",
    "beta": "Beta",
    "ddim_uniform": "DDIM",
    "align_your_steps": "Align Your Steps",
}
"""What A1111 calls schedules; the model's own has no name there."""

NOISE = {"philox": None, "torch": "CPU", "jax": "JAX", "comfy": "ComfyUI", "invoke": "InvokeAI"}
"""The random numbers of A1111 itself are not told."""


RESIZED = ("strength", "hires_scale", "outpaint_left", "outpaint_top", "outpaint_right", "outpaint_bottom")
"""Settings of pictures whose size follows from something else than height and width."""


def texts_of(about: Mapping[str, Any], size: Size) -> dict[str, str]:
    """Keyword -> text of a picture.

    Args:
        about: prompt, seed, model and all fields of the sampling settings.
        size: of the picture.
    """
    return {"parameters": parameters_of(about, size), KEYWORD: own_json(about, size)}


def own_json(about: Mapping[str, Any], size: Size) -> str:
    """All settings as they are; where a picture's size is not that which was drawn first, only if it was told."""
    told = {name: value for name, value in about.items() if value is not None}
    sides = size._asdict() if about.keys().isdisjoint(RESIZED) else {}
    return json.dumps(sides | told | {"version": __version__}, default=str)


def parameters_of(about: Mapping[str, Any], size: Size) -> str:
    """A1111's text, with its names, in its order."""
    sampler, schedule = str(about.get("sampler")), str(about.get("schedule"))
    noise, adapters = about.get("noise"), about.get("adapters") or {}
    scale = about.get("hires_scale", 1)
    first = [about.get(name) or round(side / scale) for name, side in (("width", size.width), ("height", size.height))]
    sides = first if scale > 1 else [size.width, size.height]
    pairs = {
        "Steps": about.get("steps"),
        "Sampler": SAMPLERS.get(sampler, sampler.upper()) if "sampler" in about else None,
        "Schedule type": "Automatic" if about.get("profile") == "a1111" else None,
        "CFG scale": _number(about.get("guidance_scale")),
        "Seed": about.get("seed"),
        "Size": "{}x{}".format(*sides),
        "Model": about.get("model") or None,
        **_varied(about),
        "Denoising strength": about.get("hires_strength", 0.7) if scale > 1 else about.get("strength"),
        "Clip skip": about.get("clip_skip") if about.get("clip_skip", 1) > 1 else None,
        "ENSD": about.get("noise_seed_delta") or None,
        "RNG": NOISE.get(noise, noise) if noise else None,
        "Hires upscale": _number(_unless(1.0, scale)),
        "Hires steps": about.get("hires_steps"),
        "Hires upscaler": {"picture": "Lanczos"}.get(about.get("hires_by", ""), "Latent") if scale > 1 else None,
        "Eta": _unless(1.0, about.get("ancestral_eta")),
        "Eta DDIM": _unless(0.0, about.get("eta")),
        "Emphasis": "No norm" if about.get("emphasis") == "no_norm" else None,
        "Lora hashes": ", ".join(f"{name.partition(':')[0]}: {hash_}" for name, hash_ in adapters.items()) or None,
        "TI hashes": _words(about),
        "Refiner": about.get("refiner"),
        "Refiner switch at": about.get("refiner_start") if "refiner" in about else None,
        "Version": f"dreambooth-jax {__version__}",
    }
    if about.get("variation_of") is not None:
        pairs["Seed"] = about["variation_of"]
    if schedule in SCHEDULES:
        pairs["Schedule type"] = SCHEDULES[schedule]
    prompt, negative = str(about.get("prompt", "")), str(about.get("negative_prompt") or "")
    if about.get("prompt_syntax") == "plain":
        prompt, negative = escaped(prompt), escaped(negative)
    networks = "".join(f" <lora:{name}>" for name in adapters)  # which A1111 has in its prompts
    return write_infotext(f"{prompt}{networks}", negative, pairs)


def _varied(about: Mapping[str, Any]) -> dict[str, Any]:
    """A1111's seed is the one that is varied, and its variation seed the other one."""
    if about.get("variation_of") is None:
        return {}
    return {"Variation seed": about.get("seed"), "Variation seed strength": about.get("variation_strength", 0.1)}


def _words(about: Mapping[str, Any]) -> str | None:
    """New words that one of the prompts has, with the hashes of their files."""
    files: Mapping[str, str] = about.get("embeddings") or {}
    prompts = [str(about.get(side) or "") for side in ("prompt", "negative_prompt")]
    known = dict.fromkeys(files, range(0))
    used = {word for prompt in prompts for _, _, word in split(prompt, known) if word is not None}
    # A1111 leaves out what stands between words and hashes
    return ", ".join(f"{re.sub('[:,]', '', word)}: {files[word]}" for word in files if word in used) or None


def _number(value: Any) -> Any:
    """Whole numbers without a fraction, as A1111 writes them."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _unless(default: float, value: Any) -> Any:
    return None if value is None or value == default else value
