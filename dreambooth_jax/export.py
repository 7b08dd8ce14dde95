# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A model as a folder that PyTorch diffusers, and with it ComfyUI, or legacy Flax opens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax.typing import DTypeLike

from dreambooth_jax.errors import InputError
from dreambooth_jax.paths import at_home
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.runs import RunFolder
from dreambooth_jax.trees import check_shapes, flatten
from dreambooth_jax.weights.writing import Format, write_folder


def save_pretrained(
    path: str | Path,
    pipe: Pipeline,
    params: Mapping[str, Any],
    *,
    format: Format = "safetensors",
    dtype: DTypeLike = "float32",
) -> None:
    """Write ``params`` as a diffusers folder, with the configurations and the tokenizer that ``pipe`` was loaded with.

    Args:
        path: the folder to write. See ``write_folder`` for what happens to one that exists.
        pipe: the pretrained model that the parameters descend from.
        params: {"text_encoder": ..., "unet": ..., "vae": ...}, of any float dtype.
        format: "safetensors", or "flax" for the msgpack files of the legacy Flax classes.
        dtype: of the saved weights: float32, float16 or bfloat16.

    Raises:
        InputError: if ``params`` does not fit the model, has values beyond the dtype's range or not finite, or
            cannot be saved, or if the folder is a run's own, or the one that ``pipe`` was read from.
    """
    _check_place(at_home(path).resolve(), pipe)
    expected, found = ({name: leaf.shape for name, leaf in flatten(tree).items()} for tree in (pipe.params, params))
    check_shapes(expected=expected, found=found, source="what is to be saved")
    write_folder(
        path,
        params=params,
        configs=pipe.components.configs,
        scheduler_config=pipe.components.scheduler_config,
        tokenizers={
            name: pipe.tokenizers[encoder].folder for encoder, name in pipe.components.family.text_encoders.items()
        },
        family=pipe.components.family,
        format=format,
        dtype=dtype,
        finite=True,
    )


def _check_place(target: Path, pipe: Pipeline) -> None:
    """Raise InputError where what others still need would be replaced, or a run's folders mixed with a model's."""
    if target == pipe.components.folder.resolve():
        raise InputError(f"{target} holds the model that was read, and would lose it: choose another folder")
    for folder in (RunFolder(target), RunFolder(target.parent)):
        own = (folder.path, folder.checkpoints, folder.class_images, folder.cache, folder.samples(0).parent)
        if folder.is_run() and folder.checkpoints.is_dir() and target in own:
            raise InputError(f"{target} is of a run: choose another folder, such as {folder.model}")
