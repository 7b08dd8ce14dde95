# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Pictures of InvokeAI: JSON with the names of its own."""

from collections.abc import Mapping
from typing import Any

from dreambooth_jax.config.sampler_names import SAMPLER_NAMES
from dreambooth_jax.metadata.remake import Remake, refiner_line, shown

OURS = {
    "steps": "steps",
    "cfg_scale": "guidance_scale",
    "cfg_rescale_multiplier": "guidance_rescale",
    "width": "width",
    "height": "height",
    "negative_prompt": "negative_prompt",
    "refiner_start": "refiner_start",
    "refiner_positive_aesthetic_score": "aesthetic_score",
    "refiner_negative_aesthetic_score": "negative_aesthetic_score",
}
SAMPLERS = {
    "pndm": "plms",
    "kdpm_2": "dpm2",
    "kdpm_2_a": "dpm2_a",
}
"""Names that are not ours."""
STYLES: Mapping[str, str] = {"positive_style_prompt": "positive_prompt", "negative_style_prompt": "negative_prompt"}
"""What one of two text encoders is told -> what the other one is told."""
READ = (*OURS, "positive_prompt", "seed", "scheduler", "model", "clip_skip", "rand_device", "refiner_model", *STYLES)
SILENT = (
    "generation_mode",
    "app_version",
    "seamless_x",
    "seamless_y",
)


def read_invokeai(about: Any) -> Remake:
    """What an ``invokeai_metadata`` text says.

    Raises:
        KeyError: naming a key that is not there.
    """
    if not isinstance(about, dict):
        raise KeyError("positive_prompt")
    scheduler = str(about["scheduler"])
    plain = scheduler.removesuffix("_k")
    sampler = SAMPLERS.get(plain, plain)
    options: dict[str, Any] = {ours: about[key] for key, ours in OURS.items() if about.get(key) is not None}
    options |= {"sampler": sampler, "profile": "diffusers", "noise": "invoke"}
    options["schedule"] = "karras" if plain != scheduler else "model"
    skipped = about.get("clip_skip")
    if isinstance(skipped, int) and skipped:
        options["clip_skip"] = skipped + _own_layer(about.get("model"))
    return Remake(
        tool="InvokeAI",
        prompt=str(about["positive_prompt"]),
        seed=about["seed"],
        options=options,
        model=_name(about.get("model")),
        lacking=_lacking(about, sampler),
    )


def _name(model: Any) -> str:
    return str(model.get("name") or model.get("model_name") or "") if isinstance(model, dict) else ""


def _own_layer(model: Any) -> int:
    """The text encoders' layer, from the end, that is read where none is skipped. Its names of kinds are ours."""
    from dreambooth_jax.models.families import family_named  # takes long to import

    return family_named(model.get("base") if isinstance(model, dict) else None).clip_skip


def _lacking(about: Mapping[str, Any], sampler: str) -> list[str]:
    lines = []
    if about.get("rand_device") not in (None, "cpu"):
        lines.append(f"its first noise, drawn on {shown(about['rand_device'])}: that of the CPU is taken")
    if sampler == "dpmpp_sde":
        lines.append(
            "the noise of dpmpp_sde's steps, which torchsde draws as a tree: the first noise alone is the same"
        )
    if sampler == "dpm2_a":
        lines.append("the noise of dpm2_a's steps: diffusers draws some that it does not use")
    if about.get("refiner_model"):
        lines.append(refiner_line(_name(about["refiner_model"])))
    if sampler not in SAMPLER_NAMES:
        lines.append(f"the scheduler {shown(sampler)}")
    for style, prompt in STYLES.items():
        if about.get(style) and about[style] != about.get(prompt):  # an empty one stands for the prompt
            lines.append(f"{style}, which one text encoder alone is told: {shown(about[style])}")
    for key, value in about.items():
        if key in READ or key in SILENT or value in (None, [], {}, False, "", 0):
            continue
        lines.append(f"{shown(key)}: {shown(value)}")
    return lines
