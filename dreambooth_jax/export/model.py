# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A model as a folder that PyTorch diffusers or legacy Flax opens, or as a single file for A1111 and ComfyUI."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from jax.typing import DTypeLike

from dreambooth_jax.adapters.textual_inversion import without_added
from dreambooth_jax.errors import InputError
from dreambooth_jax.export.words import beside, save_words
from dreambooth_jax.paths import at_home
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.runs import RunFolder
from dreambooth_jax.trees import check_shapes, flatten
from dreambooth_jax.weights.ldm_writing import write_single_file
from dreambooth_jax.weights.writing import Format, write_folder


def save_pretrained(
    path: str | Path,
    pipe: Pipeline,
    params: Mapping[str, Any],
    *,
    format: Format | Literal["ldm"] = "safetensors",
    dtype: DTypeLike = "float32",
) -> None:
    """Write ``params`` as a diffusers folder, with the configurations and the tokenizer that ``pipe`` was loaded with,
    or as a single file, which holds no tokenizer. New words of the pipeline have files of their own: the folder's
    learned_embeds.safetensors, or one beside the single file.

    Args:
        path: the folder to write; see ``write_folder`` for what happens to one that exists. The file, for "ldm".
        pipe: the pretrained model that the parameters descend from.
        params: {"text_encoder": ..., "unet": ..., "vae": ...}, of any float dtype.
        format: "safetensors", or "flax" for the msgpack files of the legacy Flax classes; "ldm" for a single file in
            the layout of the original code, which A1111, ComfyUI and diffusers' ``from_single_file`` open.
        dtype: of the saved weights: float32, float16 or bfloat16.

    Raises:
        InputError: if ``params`` does not fit the model, has values beyond the dtype's range or not finite, or
            cannot be saved, or if the folder is a run's own, or the one that ``pipe`` was read from.
    """
    if not isinstance(pipe, Pipeline):
        raise InputError(f"pipe={pipe!r}: give the pipeline that load_pretrained returned")
    _check_place(at_home(path).resolve(), pipe)
    expected, found = ({name: leaf.shape for name, leaf in flatten(tree).items()} for tree in (pipe.params, params))
    check_shapes(expected=expected, found=found, source="what is to be saved")
    what: dict[str, Any] = {
        "params": {
            name: without_added(tree) if name in pipe.components.family.text_encoders else tree
            for name, tree in params.items()
        },
        "configs": pipe.components.configs,
        "scheduler_config": pipe.components.scheduler_config,
        "family": pipe.components.family,
        "dtype": dtype,
        "finite": True,
    }
    if format == "ldm":
        write_single_file(path, **what)
        save_words(beside(path), pipe, dict(params))
        return
    if str(path).endswith(".safetensors"):
        raise InputError(f"{path} is the name of a single file: add format=ldm, or give a folder")
    tokenizers = {
        name: pipe.tokenizers[encoder].folder for encoder, name in pipe.components.family.text_encoders.items()
    }
    write_folder(path, tokenizers=tokenizers, index=pipe.components.index, format=format, **what)
    save_words(beside(path), pipe, dict(params))


def _check_place(target: Path, pipe: Pipeline) -> None:
    """Raise InputError where what others still need would be replaced, or a run's folders mixed with a model's."""
    if target == pipe.components.folder.resolve():
        raise InputError(f"{target} holds the model that was read, and would lose it: choose another folder")
    for folder in (RunFolder(target), RunFolder(target.parent)):
        own = (folder.path, folder.checkpoints, folder.class_images, folder.cache, folder.samples(0).parent)
        if folder.is_run() and folder.checkpoints.is_dir() and target in own:
            raise InputError(f"{target} is of a run: choose another folder, such as {folder.model}")
