# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a file says of itself in the words of the model specification, by which tools tell what it is for.

https://github.com/Stability-AI/ModelSpec, version 1.0.1.
"""

from collections.abc import Mapping
from typing import Any, Literal

from dreambooth_jax.models.clip_configs import CLIPTextConfig
from dreambooth_jax.models.families import SD, Family
from dreambooth_jax.weights.ldm import is_open_clip

PREFIX = "modelspec."
SPEC_VERSION = "1.0.1"
_ORIGINAL = "https://github.com/Stability-AI/generative-models"
Part = Literal["", "lora", "textual-inversion"]


def model_version(configs: Mapping[str, Mapping[str, Any]]) -> Literal[1, 2]:
    """Of Stable Diffusion, by its text encoder."""
    return 2 if is_open_clip(CLIPTextConfig.from_json(configs["text_encoder"])) else 1


def modelspec(
    title: str,
    configs: Mapping[str, Mapping[str, Any]],
    scheduler_config: Mapping[str, Any],
    *,
    family: Family = SD,
    part: Part = "",
    resolution: str | None = None,
    **more: str,
) -> dict[str, str]:
    """The metadata.

    Args:
        title: of the file.
        configs: content of each component's ``config.json``.
        scheduler_config: of the ``scheduler_config.json``.
        family: of the model.
        part: what of a model the file holds; empty for all of it.
        resolution: width x height that it is for; by default the model's.
        **more: such as description, author, date, tags, trigger_phrase; empty ones are left out.
    """
    said = {"epsilon": "epsilon", "v_prediction": "v"}.get(scheduler_config.get("prediction_type", "epsilon"))
    architecture = family.naming.architecture or _architecture(configs, predicts=said)
    texts = {
        "sai_model_spec": SPEC_VERSION,
        "architecture": f"{architecture}/{part}" if part else architecture,
        "implementation": implementation_of(family, part),
        "title": title,
        "resolution": resolution or _own_resolution(configs),
        **({"prediction_type": said} if said else {}),
        **{name: text for name, text in more.items() if text},
    }
    return {PREFIX + name: text for name, text in texts.items()}


def implementation_of(family: Family, part: Part) -> str:
    """Whose names the arrays of a file have."""
    return family.naming.implementation if part == "lora" else _ORIGINAL


def _architecture(configs: Mapping[str, Mapping[str, Any]], *, predicts: str | None) -> str:
    """Of Stable Diffusion 1 and 2."""
    version = model_version(configs)
    architecture = f"stable-diffusion-v{version}"
    if configs["unet"].get("in_channels") == 9:
        return f"{architecture}-inpainting"
    if version == 1:
        return architecture
    return f"{architecture}-768-v" if predicts == "v" else f"{architecture}-512"


def _own_resolution(configs: Mapping[str, Mapping[str, Any]]) -> str:
    side = (configs["unet"].get("sample_size") or 64) * 2 ** (len(configs["vae"]["block_out_channels"]) - 1)
    return f"{side}x{side}"
