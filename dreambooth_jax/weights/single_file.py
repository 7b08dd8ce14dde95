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
from dreambooth_jax.models.clip_configs import CLIPTextConfig
from dreambooth_jax.models.families import SD, Family
from dreambooth_jax.trees import flatten
from dreambooth_jax.weights import names
from dreambooth_jax.weights.files import Leaf, read_header, turned
from dreambooth_jax.weights.json_files import parse_json
from dreambooth_jax.weights.ldm import (
    CLIP_PREFIX,
    EMA_PREFIX,
    OPEN_CLIP_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    Places,
    Stored,
    places_of,
)
from dreambooth_jax.weights.ldm_configs import text_config, unet_config, vae_config
from dreambooth_jax.weights.torch_files import read_torch

log = logging.getLogger(__name__)

PICKLED = (".ckpt", ".pt", ".pth", ".bin")
SUFFIXES = (".safetensors", *PICKLED)
OWN_METADATA = "dreambooth_jax.configs"
"""Name of the metadata with the JSON of all ``config.json`` files and the scheduler's."""

# Other names of the same prefixes: SD-Turbo's text tower; CLIP's before transformers 4.
_ALIASES = (
    (re.compile(r"conditioner\.embedders\.0\.model\."), OPEN_CLIP_PREFIX),
    (re.compile(rf"{re.escape(CLIP_PREFIX)}(?=embeddings|encoder|final_layer_norm)"), f"{CLIP_PREFIX}text_model."),
)
_UNUSED = re.compile(
    rf"({re.escape(OPEN_CLIP_PREFIX)})(text_projection|logit_scale|attn_mask)"
    rf"|{re.escape(CLIP_PREFIX)}text_model\.embeddings\.position_ids"
)
_PREFIXES = {"unet": (UNET_PREFIX,), "vae": (VAE_PREFIX,), "text_encoder": (CLIP_PREFIX, OPEN_CLIP_PREFIX)}
_SCHEDULER: Mapping[str, Any] = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
# Of the spread of one norm's offsets in Stable Diffusion 2: above it with v-prediction (ComfyUI's rule).
_V_PREDICTION = ("output_blocks.11.1.transformer_blocks.0.norm1.bias", 0.09)


def is_single_file(source: str | Path) -> bool:
    """Whether a source is a file, or named like one."""
    path = Path(source)
    return path.is_file() or (path.suffix.lower() in SUFFIXES and not path.is_dir())


@dataclass(frozen=True, kw_only=True)
class SingleFile:
    """A single file that was looked at.

    Attributes:
        file: where it is.
        family: of the model.
        configs: what each component's ``config.json`` would say.
        scheduler_config: what ``scheduler_config.json`` would say.
        leaves: its arrays, by their names in the file.
    """

    file: Path
    family: Family
    configs: Mapping[str, Mapping[str, Any]]
    scheduler_config: Mapping[str, Any]
    leaves: Mapping[str, Leaf]

    def table(self, component: str, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Leaf]:
        """A component's arrays under diffusers' names; what is left over has its name in the file.

        Args:
            component: such as unet.
            shapes: our names of its parameters.
        """
        kind = self.family.components[component]
        config = kind.config_cls.from_json(self.configs[component], file=str(self.file))
        text = CLIPTextConfig.from_json(self.configs["text_encoder"], file=str(self.file))
        return translated(self.leaves, shapes, config, places_of(text)[component], prefixes=_PREFIXES[component])


def translated(
    leaves: Mapping[str, Leaf], shapes: Mapping[str, Any], config: Any, place: Places, *, prefixes: tuple[str, ...]
) -> dict[str, Leaf]:
    """Arrays of a single file under diffusers' names; those of a prefix that have none keep theirs."""
    table, taken = {}, set()
    for name in flatten(shapes):
        theirs = names.torch_name(name)
        stored = place(config, theirs)
        if stored.key in leaves:
            table[theirs] = _part(leaves[stored.key], stored)
            taken.add(stored.key)
    rest = {name: leaf for name, leaf in leaves.items() if name.startswith(prefixes) and name not in taken}
    layers = getattr(config, "num_hidden_layers", None)
    unused_layer = f"{OPEN_CLIP_PREFIX}transformer.resblocks.{layers}."
    return table | {
        name: leaf for name, leaf in rest.items() if not (_UNUSED.fullmatch(name) or name.startswith(unused_layer))
    }


def _part(leaf: Leaf, stored: Stored) -> Leaf:
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
        InputError: if there is none, it is broken, or holds no Stable Diffusion 1 or 2.
    """
    file = Path(source)
    leaves, metadata = read_single(file)
    shapes = {name: leaf.shape for name, leaf in leaves.items()}
    _check_kind(file, shapes)
    if any(name.startswith(EMA_PREFIX) for name in shapes):
        log.info("%s also holds a moving average of the denoiser, which is not read", file)
    own = _own_configs(file, metadata)
    try:
        scheduler = own.get("scheduler") or _scheduler(file, leaves, metadata, prediction_type)
        if prediction_type:
            scheduler = {**scheduler, "prediction_type": prediction_type}
        configs = {name: own.get(name) for name in SD.components}
        size = _sample_size(metadata, scheduler)
        found = {
            "unet": configs["unet"] or unet_config(shapes, sample_size=size),
            "vae": configs["vae"] or vae_config(shapes),
            "text_encoder": configs["text_encoder"] or text_config(shapes),
        }
    except InputError as error:
        raise InputError(f"{file} is no Stable Diffusion 1 or 2: it {error}") from error
    return SingleFile(file=file, family=SD, configs=found, scheduler_config=scheduler, leaves=leaves)


def read_single(file: Path) -> tuple[dict[str, Leaf], dict[str, str]]:
    """Arrays of a file by name, and its metadata.

    Raises:
        InputError: if it is not there, or broken.
    """
    if not file.is_file():
        near = difflib.get_close_matches(file.name, [one.name for one in file.parent.glob("*.*")], n=1)
        raise InputError(f"{file}: no such file" + (f"; did you mean {file.parent / near[0]}?" if near else ""))
    leaves, metadata = (read_torch(file), {}) if file.suffix.lower() in PICKLED else read_header(file)
    return {_plain(name): leaf for name, leaf in leaves.items()}, metadata


def _plain(name: str) -> str:
    for pattern, prefix in _ALIASES:
        name = pattern.sub(prefix, name, count=1) if pattern.match(name) else name
    return name


def _check_kind(file: Path, shapes: Mapping[str, Any]) -> None:
    """Raise InputError for what is something else, by what its names tell."""
    if any(name.startswith(UNET_PREFIX + "input_blocks.") for name in shapes):
        if any(name.startswith("conditioner.embedders.") for name in shapes):
            raise InputError(f"{file} is a Stable Diffusion XL, which is not supported: take a 1.x or 2.x")
        lacking = [what for what, prefixes in _PREFIXES.items() if not any(n.startswith(prefixes) for n in shapes)]
        if lacking:
            raise InputError(f"{file} has no {' and no '.join(lacking)}: take a file with the whole model")
        return
    hints = {
        ("encoder.", VAE_PREFIX): "an autoencoder alone, which goes with vae=",
        ("lora_unet_", "lora_te", "unet.", "text_encoder."): "an adapter for a model (LoRA)",
        ("down_blocks.", "mid_block."): "one network of a diffusers folder: give the folder of the whole model",
        ("control_model.", "controlnet_"): "a ControlNet",
        ("model.diffusion_model.", "double_blocks.", "joint_blocks."): "a model of another kind",
    }
    for starts, what in hints.items():
        if any(name.startswith(starts) for name in shapes):
            raise InputError(f"{file} holds no whole Stable Diffusion 1 or 2: it is {what}")
    some = ", ".join(sorted(shapes)[:3])
    raise InputError(f"{file} holds no Stable Diffusion 1 or 2: its arrays are called {some or 'nothing'}")


def _own_configs(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if OWN_METADATA not in metadata:
        return {}
    own = parse_json(metadata[OWN_METADATA], what=f"{OWN_METADATA} of {file}")
    if not all(isinstance(value, dict) for value in own.values()):
        raise InputError(f"{OWN_METADATA} of {file} holds no settings")
    return own


def _scheduler(
    file: Path, leaves: Mapping[str, Leaf], metadata: Mapping[str, str], given: str | None
) -> dict[str, Any]:
    """The noise schedule of Stable Diffusion, with what the file says of it."""
    is_2 = any(name.startswith(OPEN_CLIP_PREFIX) for name in leaves)
    scheduler = {
        **({"_class_name": "DDIMScheduler"} if is_2 else {"_class_name": "PNDMScheduler", "skip_prk_steps": True}),
        **_SCHEDULER,
        "prediction_type": given or _prediction_type(file, leaves, metadata, is_2=is_2),
    }
    return {**scheduler, "rescale_betas_zero_snr": True} if "ztsnr" in leaves else scheduler


def _prediction_type(file: Path, leaves: Mapping[str, Leaf], metadata: Mapping[str, str], *, is_2: bool) -> str:
    said = metadata.get("modelspec.prediction_type", "")
    architecture = metadata.get("modelspec.architecture", "").split("/")[0]
    if said in ("v", "v_prediction") or architecture.endswith("-v") or "v_pred" in leaves:
        return "v_prediction"
    if said == "epsilon" or not is_2:
        return "epsilon"
    if metadata.get("ss_base_model_version", "").endswith("_v"):
        return "v_prediction"
    name, limit = _V_PREDICTION
    norm = leaves.get(UNET_PREFIX + name)
    assumed = "v_prediction" if norm is not None and np.std(norm.load().astype(np.float64)) > limit else "epsilon"
    log.info("%s does not say what it predicts: %s is assumed (prediction_type=... says otherwise)", file, assumed)
    return assumed


def _sample_size(metadata: Mapping[str, str], scheduler: Mapping[str, Any]) -> int:
    """Side of the latents of pictures that the model was trained with."""
    if match := re.fullmatch(r"(\d{2,5})x\1", metadata.get("modelspec.resolution", "")):
        return max(1, int(match[1]) // 8)
    return 96 if scheduler["prediction_type"] == "v_prediction" else 64


def configs_text(configs: Mapping[str, Mapping[str, Any]], scheduler_config: Mapping[str, Any]) -> str:
    """The inverse of how configurations are read from a file's own metadata."""
    return json.dumps({**configs, "scheduler": scheduler_config}, sort_keys=True)
