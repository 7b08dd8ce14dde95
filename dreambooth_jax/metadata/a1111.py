# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Pictures of A1111, Forge and others that write its text."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from dreambooth_jax.config.sampler_names import read_sampler, read_schedule
from dreambooth_jax.metadata.infotext import read_infotext
from dreambooth_jax.metadata.remake import (
    PICTURE,
    Remake,
    adapters_line,
    lacking_tree,
    number,
    refiner_line,
    shown,
    words_line,
)

OURS: Mapping[str, str] = {
    "Steps": "steps",
    "CFG scale": "guidance_scale",
    "Clip skip": "clip_skip",
    "ENSD": "noise_seed_delta",
    "Eta": "ancestral_eta",
    "Eta DDIM": "eta",
    "Refiner switch at": "refiner_start",
}
"""Keys whose value is that of a setting of ours."""

NOISE = {"GPU": "philox", "NV": "philox", "CPU": "torch"}
HIRES: Mapping[str, str] = {"Hires upscale": "hires_scale", "Hires steps": "hires_steps"}
VARIED = ("Variation seed", "Variation seed strength")
READ = (
    "Sampler",
    "Schedule type",
    "Seed",
    "Size",
    "Size-1",
    "Size-2",
    "RNG",
    "Model",
    "Model hash",
    "Version",
    "Emphasis",
)
SILENT = ("User", "Backend", "Lora hashes", "VAE hash", "Hashes", "Batch size", "Batch pos")
"""Said by another line, or of no matter for the picture."""
EMPHASIS = {"Original": "original", "No norm": "no_norm"}

LINES: Mapping[str, Callable[[str], str]] = {
    "Denoising strength": lambda value: f"{PICTURE}, at denoising strength {value}: give it with image=FILE",
    "TI hashes": lambda value: words_line(pair.partition(":")[0].strip() for pair in value.split(",")),
    "Refiner": refiner_line,
    "TI": lambda value: f"the textual inversion {value}",
    "VAE": lambda value: f"the autoencoder {value}: that of the model is taken",
}
"""What is said of keys, where it is more than that they are not known."""

NETWORK = re.compile(r"<(\w{1,32}):([^<>]{1,200})>")
"""``<lora:name:0.8>`` in a prompt."""
LORA = ("lora", "lyco")
"""Kinds of networks that are adapters."""


def read_a1111(text: str) -> Remake:
    """What a ``parameters`` text says.

    Raises:
        KeyError: naming a key that is not there.
    """
    prompt, negative_prompt, pairs = read_infotext(text)
    named = read_sampler(pairs["Sampler"])
    schedule = read_schedule(pairs.get("Schedule type", "Automatic"))
    options: dict[str, Any] = {OURS[key]: number(value) for key, value in pairs.items() if key in OURS}
    options |= {"sampler": named.sampler, "schedule": named.schedule or schedule, "profile": "a1111"}
    options |= {"prompt_syntax": "a1111", "emphasis": EMPHASIS.get(pairs.get("Emphasis", "Original"), "original")}
    options |= _second_pass(pairs) | _size(pairs) | {"noise": NOISE.get(pairs.get("RNG", "GPU"), "philox")}
    options["negative_prompt"] = NETWORK.sub("", negative_prompt)
    seed = number(pairs["Seed"])
    if all(key in pairs for key in VARIED):
        options |= {"variation_of": seed, "variation_strength": number(pairs[VARIED[1]])}
        seed = number(pairs[VARIED[0]])
    return Remake(
        tool="A1111",
        prompt=NETWORK.sub("", prompt).strip(),
        seed=seed,
        options=options,
        model=pairs.get("Model") or pairs.get("Model hash") or "",
        lacking=_lacking(prompt + negative_prompt, pairs, named.sampler),
    )


def _second_pass(pairs: Mapping[str, str]) -> dict[str, Any]:
    """Of "hires fix", or of a run from a picture: both have a denoising strength."""
    names = {**HIRES, "Denoising strength": "hires_strength" if "Hires upscale" in pairs else "strength"}
    found: dict[str, Any] = {name: number(pairs[key]) for key, name in names.items() if key in pairs}
    if "Hires upscale" in pairs:
        found["hires_by"] = "latent" if _enlarges_latents(pairs) else "picture"
    return found


def _enlarges_latents(pairs: Mapping[str, str]) -> bool:
    return pairs.get("Hires upscaler", "Latent").startswith("Latent")


def _size(pairs: Mapping[str, str]) -> dict[str, Any]:
    width, times, height = pairs.get("Size", "").partition("x")
    return {"width": number(width), "height": number(height)} if times else {}


def _lacking(prompts: str, pairs: Mapping[str, str], sampler: str) -> list[str]:
    networks = NETWORK.findall(prompts)
    lines = [f"the network {kind}:{shown(what)}" for kind, what in networks if kind not in LORA]
    added = [what for kind, what in networks if kind in LORA]
    lines += [adapters_line(added)] if added else []
    lines += lacking_tree(sampler)
    rng = pairs.get("RNG", "GPU")
    if rng not in NOISE:
        lines.append(f"its random numbers, RNG: {shown(rng)}; those of an NVIDIA GPU are drawn")
    emphasis = pairs.get("Emphasis", "Original")
    if emphasis not in EMPHASIS:
        lines.append(f"Emphasis: {shown(emphasis)}; Original is taken")
    version = re.match(r"v(\d{1,3})\.(\d{1,3})", pairs.get("Version", ""))
    if version and (int(version[1]), int(version[2])) < (1, 7):
        lines.append("the rounding of noise levels to half precision, which A1111 did before version 1.7")
    skipped = number(pairs.get("Clip skip", ""))
    if version and isinstance(skipped, int) and skipped > 2:
        lines.append(f"Clip skip: {skipped}, if its model is XL: A1111 does not count it there; say clip_skip=2")
    if not _enlarges_latents(pairs) or pairs.get("Hires upscaler", "Latent") not in ("Latent", "Latent (bilinear)"):
        lines.append(f"the upscaler {shown(pairs['Hires upscaler'])} between the passes: Lanczos or bilinear is taken")
    for key, value in pairs.items():
        known = key in OURS or key in READ or key in SILENT or key in VARIED
        if known or (key == "Denoising strength" and "Hires upscale" in pairs):
            continue
        if key in HIRES or key == "Hires upscaler":
            continue
        lines.append(LINES[key](shown(value)) if key in LINES else f"{shown(key)}: {shown(value)}")
    return lines
