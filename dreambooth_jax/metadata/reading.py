# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A picture's file -> how to make it again. A new tool is a reader and a line in ``READERS``."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dreambooth_jax.config.drawing import DrawingConfig
from dreambooth_jax.config.setting import Rules, check_arguments
from dreambooth_jax.errors import InputError
from dreambooth_jax.metadata import ours
from dreambooth_jax.metadata.a1111 import read_a1111
from dreambooth_jax.metadata.comfyui import read_comfyui
from dreambooth_jax.metadata.invokeai import read_invokeai
from dreambooth_jax.metadata.remake import PICTURE, Remake, adapters_line, refiner_line, shown, words_line
from dreambooth_jax.metadata.texts import read_texts
from dreambooth_jax.prompts.wildcards import literal

FIELDS = {field.name: field for field in dataclasses.fields(DrawingConfig)}
LARGEST_BATCH = 4096


def read_ours(about: Any) -> Remake:
    """What our JSON says. Settings that this version does not know are said."""
    if not isinstance(about, dict):
        raise KeyError("prompt")
    if "grid" in about:
        raise InputError("is a grid of many pictures: give one of them")
    batch, position = about.get("batch", 1), about.get("position", 0)
    whole = all(isinstance(one, int) for one in (batch, position)) and 0 <= position < batch <= LARGEST_BATCH
    known = {
        *FIELDS,
        "prompt",
        "prompt_template",
        "negative_prompt_template",
        "seed",
        "model",
        "fingerprint",
        "batch",
        "position",
        "control",
        "embeddings",
        "adapters",
        "refiner",
        "version",
        "file",
        "status",
    }
    return Remake(
        tool=ours.KEYWORD,
        prompt=str(about["prompt"]),
        seed=about["seed"],
        options={name: value for name, value in about.items() if name in FIELDS},
        model=str(about.get("model") or ""),
        fingerprint=str(about.get("fingerprint") or ""),
        batch=batch if whole else 1,
        position=position if whole else 0,
        lacking=[f"{name}, which this version does not know" for name in about if name not in known]
        + [f"{PICTURE}, at strength {shown(about.get('strength'))}: give it with image=FILE"] * ("strength" in about)
        + [words_line(words) for words in [about.get("embeddings")] if isinstance(words, dict)]
        + [adapters_line(names) for names in [about.get("adapters")] if isinstance(names, dict)]
        + [refiner_line(name) for name in [about.get("refiner")] if name]
        + ["what it was controlled by: give that with control=NETWORK:PICTURE"] * bool(about.get("control")),
    )


def read_earlier(texts: Mapping[str, str]) -> Remake:
    """Our pictures before there was JSON: a text for each setting."""
    plain = {name: text for name, text in texts.items() if name != "parameters"}
    options = {name: _as_setting(name, text) for name, text in plain.items() if name in FIELDS}
    return Remake(
        tool=ours.KEYWORD,
        prompt=plain["prompt"],
        seed=int(plain["seed"]) if plain["seed"].isdecimal() and len(plain["seed"]) < 21 else plain["seed"],
        options=options,
        model=plain.get("model", ""),
    )


def _as_setting(name: str, text: str) -> Any:
    if text == "None":
        return None
    if FIELDS[name].type in (float, int):
        try:
            return FIELDS[name].type(text) if len(text) < 40 else text  # type: ignore[operator]
        except ValueError:
            return text
    return text


READERS: Mapping[str, Callable[[Mapping[str, str]], Remake]] = {
    ours.KEYWORD: lambda texts: read_ours(json.loads(texts[ours.KEYWORD])),
    "guidance_scale": read_earlier,
    "invokeai_metadata": lambda texts: read_invokeai(json.loads(texts["invokeai_metadata"])),
    "parameters": lambda texts: read_a1111(texts["parameters"]),
    "prompt": lambda texts: read_comfyui(json.loads(texts["prompt"])),
}
"""The keyword of a text by which a tool is known -> its reader; the first that is there counts."""


def read_remake(path: str | Path) -> Remake:
    """What a picture's file says of how it was made, with checked settings.

    Raises:
        InputError: if it says nothing, or what cannot be; on one line.
    """
    texts = read_texts(path)
    keyword = next((one for one in READERS if one in texts), None)
    if keyword is None:
        raise InputError(
            f"{path} does not say how it was made: it has no text of A1111, ComfyUI, InvokeAI or ours inside"
        )
    try:
        remake = READERS[keyword](texts)
    except InputError as error:
        raise InputError(f"{path} {error}") from error
    except KeyError as error:
        raise InputError(f"{path}: its text {keyword!r} does not have {error.args[0]}: nothing to repeat") from error
    except (ValueError, RecursionError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: its text {keyword!r} cannot be read ({type(error).__name__})") from error
    return checked(remake, path)


def _without_wildcards(remake: Remake, options: dict[str, Any]) -> tuple[Remake, dict[str, Any]]:
    """What other tools say is drawn already: braces and underlines in it are text."""
    if remake.tool == ours.KEYWORD or options.get("prompt_syntax") != "a1111":
        return remake, options
    negative = options.get("negative_prompt", "")
    told = {"negative_prompt": literal(negative)} if isinstance(negative, str) else {}
    return dataclasses.replace(remake, prompt=literal(remake.prompt)), options | told


def checked(remake: Remake, path: str | Path) -> Remake:
    """A remake whose settings are what they must be.

    Raises:
        InputError: naming the picture and the value.
    """
    from dreambooth_jax.diffusion.samplers.build import settings_of  # takes long to import

    seed, most = remake.seed, 2**64 if remake.options.get("noise", "jax") != "jax" else 2**32
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < most:
        raise InputError(f"{path}: its seed is {str(seed)[:40]!r}, not a whole number from 0 to {most - 1}")
    if rule := Rules().broken_by(remake.prompt):
        raise InputError(f"{path}: its prompt must be {rule}")
    known = {name: value for name, value in remake.options.items() if name in FIELDS}
    remake, known = _without_wildcards(remake, known)
    try:
        sampling = DrawingConfig().changed(known)
        check_arguments(sampling)
        idle = set(sampling.of_sampler) - set(settings_of(sampling.sampler))  # A1111 tells Eta whatever the sampler is
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return dataclasses.replace(remake, options={name: getattr(sampling, name) for name in known if name not in idle})
