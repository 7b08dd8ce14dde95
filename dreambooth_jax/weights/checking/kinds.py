# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Files that are no adapters, told by the names in them, and who loads them."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dreambooth_jax.errors import InputError
from dreambooth_jax.weights.checking.report import OURS, ToolReport
from dreambooth_jax.weights.embeddings import Embedding, read_embeddings
from dreambooth_jax.weights.files import Leaf
from dreambooth_jax.weights.layouts import UNET_PREFIX, VAE_PREFIX
from dreambooth_jax.weights.single_file import open_single_file
from dreambooth_jax.weights.word_pictures import is_picture


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        what: it is.
        starts: beginnings of names, of which a file has at least one each.
        loads: tool -> what of it that loads.
    """

    what: str
    starts: tuple[str, ...]
    loads: Mapping[str, str]


_ORIGINAL = {"A1111": "yes", "Forge": "yes", "ComfyUI": "yes", "diffusers": "yes, from_single_file"}
_MODEL = {OURS: "yes, model.path= or SOURCE"}
_WHOLE = (f"{UNET_PREFIX}input_blocks.", VAE_PREFIX)
_DIFFUSERS = {"diffusers": "yes, with the config.json of its folder"}
KINDS = (
    Kind("a whole Stable Diffusion XL in a single file", (*_WHOLE, "conditioner.embedders.1."), _ORIGINAL | _MODEL),
    Kind(
        "the refiner of a Stable Diffusion XL in a single file",
        (*_WHOLE, "conditioner.embedders.0.", f"{UNET_PREFIX}label_emb."),
        _ORIGINAL | _MODEL,
    ),
    Kind("a whole Stable Diffusion in a single file", (*_WHOLE, "cond_stage_model."), _ORIGINAL | _MODEL),
    Kind("a whole Stable Diffusion in a single file", (*_WHOLE, "conditioner.embedders.0."), _ORIGINAL | _MODEL),
    Kind(
        "a denoiser in the layout of the original code, without autoencoder or text encoder",
        (f"{UNET_PREFIX}input_blocks.",),
        {OURS: "yes, unet="},
    ),
    Kind("a denoiser of another kind of model", (UNET_PREFIX,), {OURS: "no"}),
    Kind("a Flux or another model of its kind", ("double_blocks.",), {OURS: "no"}),
    Kind("a Stable Diffusion 3 or another model of its kind", ("joint_blocks.",), {OURS: "no"}),
    Kind("an IP-Adapter", ("image_proj.", "ip_adapter."), {OURS: "yes, --control FILE:PICTURE"}),
    Kind("a ControlNet in the layout of the original code", ("control_model.",), {OURS: "yes, --control"} | _ORIGINAL),
    Kind("a ControlNet in the layout of the original code", ("input_hint_block.",), {OURS: "yes, --control"}),
    Kind("a ControlNet of diffusers", ("controlnet_cond_embedding.",), {OURS: "yes, --control"} | _DIFFUSERS),
    Kind("a T2I-Adapter", ("adapter.body.",), {OURS: "yes, --control"} | _DIFFUSERS),
    Kind("a T2I-Adapter of the original code", ("body.",), {}),
    Kind(
        "an autoencoder in the layout of the original code",
        ("encoder.down.", "decoder.up."),
        {OURS: "yes, vae="} | _ORIGINAL,
    ),
    Kind("an autoencoder in the layout of the original code", (f"{VAE_PREFIX}encoder.down.",), {OURS: "yes, vae="}),
    Kind(
        "an autoencoder of diffusers",
        ("encoder.down_blocks.", "decoder.up_blocks."),
        {OURS: "yes, vae=FOLDER"} | _DIFFUSERS,
    ),
    Kind("a tiny autoencoder (TAESD)", ("encoder.layers.", "decoder.layers."), {OURS: "yes, preview_vae="}),
    Kind(
        "the denoiser of a diffusers folder",
        ("down_blocks.", "conv_in."),
        {OURS: "yes, unet="} | _DIFFUSERS,
    ),
    Kind("a text encoder of transformers", ("text_model.encoder.",), {OURS: "as a part of its folder"}),
)
"""In the order in which they are tried."""

_WORDS_LOAD = {
    "diffusers": {"A1111": "yes", "Forge": "yes", "ComfyUI": "yes", "diffusers": "yes", OURS: "yes, --embedding"},
    "several": {
        "A1111": "no: it takes one word a file",
        "ComfyUI": "no",
        "diffusers": "no: one word a file",
        OURS: "yes",
    },
    "a1111": {
        **{"A1111": "yes: the file's name is the word", "Forge": "yes", "ComfyUI": "yes"},
        **{"diffusers": "yes, with token= (the file does not say the word)", OURS: "yes, --embedding"},
    },
    "a picture": {
        **{"A1111": "yes: the word is called as the picture says", "Forge": "yes", "ComfyUI": "no", "diffusers": "no"},
        OURS: "yes, --embedding",
    },
    "xl": {
        **{"A1111": "yes", "Forge": "yes", "ComfyUI": "yes"},
        **{"diffusers": "one text encoder after the other", OURS: "yes, --embedding"},
    },
}
_WORD_BASES = {
    (768,): "Stable Diffusion 1",
    (1024,): "Stable Diffusion 2",
    (768, 1280): "Stable Diffusion XL",
}


def other_facts(file: Path, leaves: Mapping[str, Leaf]) -> dict[str, Any]:
    """What a report says of a file that is no adapter.

    Raises:
        InputError: if it is nothing that is known.
    """
    for kind in KINDS:
        if all(any(name.startswith(start) for name in leaves) for start in kind.starts):
            return {"kind": kind.what, "base": _base(file, kind), "tools": _tools(kind.loads)}
    try:
        words = read_embeddings(file)
    except InputError as error:
        some = ", ".join(sorted(leaves)[:3]) or "nothing"
        raise InputError(f"{file} is nothing that is known: its arrays are called {some}") from error
    return _of_words(words, leaves)


def _base(file: Path, kind: Kind) -> str | None:
    if kind.loads.get(OURS) != _MODEL[OURS]:
        return None
    try:
        found = open_single_file(file)
    except InputError as error:
        return str(error)
    inpainting = ", inpainting" if found.configs["unet"].get("in_channels") == 9 else ""
    return f"{found.layout.name}{inpainting}, which predicts {found.scheduler_config['prediction_type']}"


def _of_words(words: list[Embedding], leaves: Mapping[str, Leaf]) -> dict[str, Any]:
    widths = tuple(part.shape[1] for part in words[0].parts.values())
    form = "xl" if len(widths) > 1 else "several" if len(words) > 1 else "diffusers"
    form = "a1111" if {"emb_params", "string_to_param.*"} & leaves.keys() else form
    file = words[0].file
    form = "a picture" if is_picture(file) else form
    return {
        "kind": f"{'new words' if len(words) > 1 else 'a new word'} (textual inversion), in the form of {form}",
        "base": _WORD_BASES.get(widths, f"a model whose text encoder has {' and '.join(map(str, widths))} channels"),
        "facts": {"words": ", ".join(f"{word.word!r} of {word.vectors} vectors" for word in words)},
        "tools": _tools(_WORDS_LOAD[form]),
        "ways_out": (f"dreambooth-jax export {shlex.quote(str(file))} OUT.safetensors",) if is_picture(file) else (),
    }


def _tools(loads: Mapping[str, str]) -> tuple[ToolReport, ...]:
    return tuple(ToolReport(tool=tool, loads=text) for tool, text in loads.items())
