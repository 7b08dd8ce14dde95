# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How files name the tensors of adapters.

    kohya       lora_unet_mid_block_attentions_0_proj_in.lora_down.weight          A1111, ComfyUI, LyCORIS, sd-scripts
    peft        unet.mid_block.attentions.0.proj_in.lora_A.weight                  diffusers since 0.24
    diffusers   unet.mid_block.attentions.0.proj_in.lora.down.weight               before, and its scripts to this day
    processor   unet.mid_block.….attn1.processor.to_q_lora.down.weight             earlier still
    linear      text_encoder.….mlp.fc1.lora_linear_layer.down.weight               text encoders of the same time

A file may mix the last four. A name is read without asking which dialect the others are in.
"""

import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from dreambooth_jax.models.configs import UNetConfig
from dreambooth_jax.models.families import Naming
from dreambooth_jax.weights.adapters.methods import ALL_TENSORS
from dreambooth_jax.weights.adapters.paths import (
    USUAL,
    Layers,
    dotted_name,
    from_dotted,
    from_kohya,
    kohya_name,
    original_name,
)

KOHYA_PREFIXES = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lycoris_": "unet",
    "oft_unet_": "unet",
}
"""What names begin with -> network; the first of a network is written."""
Modules: TypeAlias = Callable[[str, str], str]
"""(network, path of a layer) -> its name."""
NETWORKS = ("unet", "text_encoder", "text_encoder_2")

_KOHYA_TENSORS = {f"{name}.weight": name for name in ("lora_down", "lora_up", "lora_mid", "a1", "a2", "b1", "b2", "bm")}
_PAIR = {"down": "lora_down", "up": "lora_up", "A": "lora_down", "B": "lora_up"}
# How a name ends -> (dialect, its tensor). Of PEFT's the name of the adapter may stand before the last word.
_ENDINGS = (
    (re.compile(r"\.lora_([AB])(?:\.default)?(?:\.weight)?"), "peft"),
    (re.compile(r"\.lora_(magnitude_vector)(?:\.default)?(?:\.weight)?"), "peft"),
    (re.compile(r"\.lora\.(down|up)\.weight"), "diffusers"),
    (re.compile(r"_lora\.(down|up)\.weight"), "processor"),
    (re.compile(r"\.lora_linear_layer\.(down|up)\.weight"), "linear"),
)
# What files before PEFT called projections of attention.
_OLD_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
_BARE = {"unet": ("down_blocks.", "up_blocks.", "mid_block.", "conv_in.", "conv_out.", "time_embedding.")}
MAGNITUDE = "magnitude"
"""PEFT's magnitudes of DoRA, which lie otherwise than ``dora_scale``."""


class Key(NamedTuple):
    """What a name in a file means.

    Attributes:
        dialect: of the name.
        network: whose layer it is.
        path: of the layer in the network's parameters.
        tensor: name of the tensor among those of the layer.
    """

    dialect: str
    network: str
    path: str
    tensor: str


def read_key(name: str, layers: Layers = USUAL) -> Key | None:
    """A name of any dialect; None for one of none. ``layers``: of the denoiser that it is for."""
    return _read_kohya(name, layers) or _read_dotted(name)


def kohya_module(network: str, path: str) -> str:
    """The name of a layer in kohya's dialect, where nothing is known of the model.

    >>> kohya_module("text_encoder_2", "text_model/encoder/layers_0/mlp/fc1")
    'lora_te2_text_model_encoder_layers_0_mlp_fc1'
    """
    return next(prefix for prefix, whose in KOHYA_PREFIXES.items() if whose == network) + kohya_name(path)


def kohya_modules(naming: Naming, unet: UNetConfig) -> Modules:
    """Names of layers in kohya's dialect, as sd-scripts write them for a family.

    Args:
        naming: of the family.
        unet: of the model, whose layers the original code counts.
    """

    def module(network: str, path: str) -> str:
        counted = naming.counts_as_original and network == "unet"
        return naming.kohya[network] + (original_name(unet, path) if counted else kohya_name(path))

    return module


def kohya_key(network: str, path: str, tensor: str, module: Modules = kohya_module) -> str:
    """The name of a tensor in kohya's dialect, of a layer that ``module`` gives its name.

    >>> kohya_key("unet", "mid_block/attentions_0/proj_in", "lora_up")
    'lora_unet_mid_block_attentions_0_proj_in.lora_up.weight'
    """
    ending = next((theirs for theirs, ours in _KOHYA_TENSORS.items() if ours == tensor), tensor)
    return f"{module(network, path)}.{ending}"


def peft_key(network: str, path: str, tensor: str) -> str:
    """The name of a tensor of LoRA or DoRA in PEFT's dialect.

    >>> peft_key("text_encoder", "text_model/encoder/layers_0/mlp/fc1", "lora_down")
    'text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight'
    """
    ending = {"lora_down": "lora_A.weight", "lora_up": "lora_B.weight", MAGNITUDE: "lora_magnitude_vector.weight"}[
        tensor
    ]
    return f"{network}.{dotted_name(path)}.{ending}"


def _read_kohya(name: str, layers: Layers) -> Key | None:
    module, _, ending = name.partition(".")
    prefix = next((one for one in KOHYA_PREFIXES if module.startswith(one)), None)
    tensor = _KOHYA_TENSORS.get(ending, ending)
    if prefix is None or tensor not in ALL_TENSORS:
        return None
    path = from_kohya(module.removeprefix(prefix), layers)
    return Key("kohya", KOHYA_PREFIXES[prefix], path, tensor) if path else None


def _read_dotted(name: str) -> Key | None:
    network, name = _network_of(name)
    if network is None:
        return None
    for ending, dialect in _ENDINGS:
        if match := re.search(f"(?:{ending.pattern})$", name):
            tensor = MAGNITUDE if match[1] == "magnitude_vector" else _PAIR[match[1]]
            return Key(dialect, network, _dotted_path(network, name[: match.start()]), tensor)
    module, _, tensor = name.rpartition(".")
    if tensor in ALL_TENSORS - {"weight"} and module:
        return Key("diffusers", network, _dotted_path(network, module), tensor)
    return None


def _network_of(name: str) -> tuple[str | None, str]:
    """(network, the rest of the name), also where a file of one network does not say which."""
    name = name.removeprefix("base_model.model.")
    for network in NETWORKS:
        if name.startswith(f"{network}."):
            return network, name.removeprefix(f"{network}.").removeprefix("base_model.model.")
    if name.startswith(_BARE["unet"]):
        return "unet", name
    return ("text_encoder", name) if name.startswith("text_model.") else (None, name)


def _dotted_path(network: str, module: str) -> str:
    path = from_dotted(module.replace(".processor.", "."))
    parent, _, last = path.rpartition("/")
    if network == "unet":
        return f"{path}_0" if last == "to_out" else path
    if last in _OLD_TEXT:
        path = f"{parent}/{_OLD_TEXT[last]}"
    return path if path.startswith(("text_model/", "text_projection")) else f"text_model/{path}"
