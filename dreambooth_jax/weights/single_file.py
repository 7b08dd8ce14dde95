# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A model in a single file, as A1111 and ComfyUI keep them: what it is, and its arrays under diffusers' names.

Nothing but names, shapes and the file's metadata is looked at. What they don't tell (the scheduler, heads of unusual
networks) our own files say in metadata of their own; for others it is what the original code has.
"""

import difflib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dreambooth_jax.errors import InputError
from dreambooth_jax.models.families import Family
from dreambooth_jax.trees import flatten
from dreambooth_jax.weights import names
from dreambooth_jax.weights.files import Leaf, leaf_of, read_header, turned
from dreambooth_jax.weights.json_files import parse_json
from dreambooth_jax.weights.layouts import CLIP_PREFIX, EMA_PREFIX, LAYOUTS, UNET_PREFIX, Home, Layout
from dreambooth_jax.weights.ldm import Place, Stored
from dreambooth_jax.weights.single_file_kinds import check_noise, not_whole
from dreambooth_jax.weights.torch_files import read_torch
from dreambooth_jax.weights.word_pictures import is_picture, read_word_picture

log = logging.getLogger(__name__)

PICKLED = (".ckpt", ".pt", ".pth", ".bin")
SUFFIXES = (".safetensors", *PICKLED)
OWN_METADATA = "dreambooth_jax.configs"
"""Name of the metadata with the JSON of all ``config.json`` files and the scheduler's."""

_OLD_CLIP = re.compile(rf"{re.escape(CLIP_PREFIX)}(?=embeddings|encoder|final_layer_norm)")
"""CLIP's names before transformers 4."""
_UNUSED = re.compile(r"text_projection|logit_scale|attn_mask|text_model\.embeddings\.position_ids")
"""Of text encoders, where they are not among the parameters: what only similarities need, and buffers."""
_UNUSED_LAYER = "transformer.resblocks."
# Of the spread of one norm's offsets in Stable Diffusion 2: above it with v-prediction (ComfyUI's rule).
_V_PREDICTION = (f"{UNET_PREFIX}output_blocks.11.1.transformer_blocks.0.norm1.bias", 0.09)


def is_single_file(source: str | Path) -> bool:
    """Whether a source is a file, or named like one."""
    path = Path(source)
    return path.is_file() or (path.suffix.lower() in SUFFIXES and not path.is_dir())


@dataclass(frozen=True, kw_only=True)
class SingleFile:
    """A single file that was looked at.

    Attributes:
        file: where it is.
        layout: of it.
        configs: what each component's ``config.json`` would say.
        scheduler_config: what ``scheduler_config.json`` would say.
        leaves: its arrays, by their names in the file.
    """

    file: Path
    layout: Layout
    configs: Mapping[str, Mapping[str, Any]]
    scheduler_config: Mapping[str, Any]
    leaves: Mapping[str, Leaf]

    @property
    def family(self) -> Family:
        """Of the model."""
        return self.layout.family

    def table(self, component: str, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Leaf]:
        """A component's arrays under diffusers' names; what is left over has its name in the file.

        Args:
            component: such as unet.
            shapes: our names of its parameters.
        """
        kind, home = self.family.components[component], self.layout.homes[component]
        config = kind.config_cls.from_json(self.configs[component], file=str(self.file))
        return translated(self.leaves, shapes, config, home.dialect.place, prefix=home.prefix)


def translated(
    leaves: Mapping[str, Leaf], shapes: Mapping[str, Any], config: Any, place: Place, *, prefix: str
) -> dict[str, Leaf]:
    """Arrays of a single file behind a prefix under diffusers' names; those that have none keep theirs."""
    table, taken = {}, set()
    for name in flatten(shapes):
        theirs = names.torch_name(name)
        stored = place(config, theirs)
        key = prefix + stored.key
        if key in leaves:
            table[theirs] = _as_in_diffusers(leaves[key], stored)
            taken.add(key)
    unused_layer = f"{_UNUSED_LAYER}{getattr(config, 'num_hidden_layers', None)}."

    def is_unused(name: str) -> bool:
        inner = name.removeprefix(prefix)
        return _UNUSED.fullmatch(inner) is not None or inner.startswith(unused_layer)

    rest = {name: leaf for name, leaf in leaves.items() if name.startswith(prefix) and name not in taken}
    return table | {name: leaf for name, leaf in rest.items() if not is_unused(name)}


def _as_in_diffusers(leaf: Leaf, stored: Stored) -> Leaf:
    if stored.as_matrix:
        return turned(leaf, np.transpose)
    third = stored.third
    if third is None:
        return leaf
    # a copy: a view would keep all three parts in memory
    return turned(leaf, lambda array: np.array(array[third * len(array) // 3 : (third + 1) * len(array) // 3]))


def open_single_file(source: str | Path, *, prediction_type: str | None = None) -> SingleFile:
    """Look at a file.

    Args:
        source: its path.
        prediction_type: what the denoiser predicts; by default what the file says, or what it looks like.

    Raises:
        InputError: if there is none, it is broken, or holds no model that we know.
    """
    file = Path(source)
    leaves, metadata = read_single(file)
    shapes = {name: leaf.shape for name, leaf in leaves.items()}
    layout = next((one for one in LAYOUTS if one.is_of(shapes)), None)
    if layout is None:
        raise not_whole(file, shapes)
    check_noise(file, shapes)
    if any(name.startswith(EMA_PREFIX) for name in shapes):
        log.info("%s also holds a moving average of the denoiser, which is not read", file)
    own = _own_configs(file, metadata)
    try:
        scheduler = own.get("scheduler") or _scheduler(file, layout, leaves, metadata, prediction_type)
        if prediction_type:
            scheduler = {**scheduler, "prediction_type": prediction_type}
        found = {
            name: own.get(name) or {**home.config(shapes), **_scalars(home, leaves)}
            for name, home in layout.homes.items()
        }
    except InputError as error:
        raise InputError(f"{file} is no {layout.name}: it {error}") from error
    found["unet"] = {"sample_size": _sample_size(layout, metadata, scheduler), **found["unet"]}
    return SingleFile(file=file, layout=layout, configs=found, scheduler_config=scheduler, leaves=leaves)


def _scalars(home: Home, leaves: Mapping[str, Leaf]) -> dict[str, float]:
    """Numbers that are no parameters, by the keys of ``config.json`` that keep them."""
    there = {key: leaves.get(home.prefix + name) for name, (key, _) in home.scalars.items()}
    return {key: float(leaf.load()) for key, leaf in there.items() if leaf is not None and leaf.shape == ()}


def read_single(file: Path) -> tuple[dict[str, Leaf], dict[str, str]]:
    """Arrays of a file by name, and its metadata.

    Raises:
        InputError: if it is not there, or broken.
    """
    if not file.is_file():
        near = difflib.get_close_matches(file.name, [one.name for one in file.parent.glob("*.*")], n=1)
        raise InputError(f"{file}: no such file" + (f"; did you mean {file.parent / near[0]}?" if near else ""))
    if is_picture(file):
        return {"string_to_param.*": leaf_of(read_word_picture(file).vectors)}, {}
    leaves, metadata = (read_torch(file), {}) if file.suffix.lower() in PICKLED else read_header(file)
    new = f"{CLIP_PREFIX}text_model."
    return {_OLD_CLIP.sub(new, name, count=1): leaf for name, leaf in leaves.items()}, metadata


def _own_configs(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if OWN_METADATA not in metadata:
        return {}
    own = parse_json(metadata[OWN_METADATA], what=f"{OWN_METADATA} of {file}")
    if not all(isinstance(value, dict) for value in own.values()):
        raise InputError(f"{OWN_METADATA} of {file} holds no settings")
    return own


def _scheduler(
    file: Path, layout: Layout, leaves: Mapping[str, Leaf], metadata: Mapping[str, str], given: str | None
) -> dict[str, Any]:
    """The noise schedule of the kind of model, with what the file says of it."""
    predicts = given or _prediction_type(file, layout, leaves, metadata)
    scheduler = {**layout.scheduler, "prediction_type": predicts}
    return {**scheduler, "rescale_betas_zero_snr": True} if "ztsnr" in leaves else scheduler


def _prediction_type(file: Path, layout: Layout, leaves: Mapping[str, Leaf], metadata: Mapping[str, str]) -> str:
    said = metadata.get("modelspec.prediction_type", "")
    architecture = metadata.get("modelspec.architecture", "").split("/")[0]
    if said in ("v", "v_prediction") or architecture.endswith("-v") or "v_pred" in leaves:
        return "v_prediction"
    if said == "epsilon" or not layout.norm_tells:
        return "epsilon"
    if metadata.get("ss_base_model_version", "").endswith("_v"):
        return "v_prediction"
    name, limit = _V_PREDICTION
    norm = leaves.get(name)
    assumed = "v_prediction" if norm is not None and np.std(norm.load().astype(np.float64)) > limit else "epsilon"
    log.info("%s does not say what it predicts: %s is assumed (prediction_type=... says otherwise)", file, assumed)
    return assumed


def _sample_size(layout: Layout, metadata: Mapping[str, str], scheduler: Mapping[str, Any]) -> int:
    """Side of the latents of pictures that the model was trained with."""
    if match := re.fullmatch(r"(\d{2,5})x\1", metadata.get("modelspec.resolution", "")):
        return max(1, int(match[1]) // 8)
    return layout.sample_size[scheduler["prediction_type"] == "v_prediction"]


def configs_text(configs: Mapping[str, Mapping[str, Any]], scheduler_config: Mapping[str, Any]) -> str:
    """The inverse of how configurations are read from a file's own metadata."""
    return json.dumps({**configs, "scheduler": scheduler_config}, sort_keys=True)
