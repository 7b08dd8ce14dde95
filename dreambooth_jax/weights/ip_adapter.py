# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""IP-Adapter files of Stable Diffusion 1.5 and XL: a projection, and two matrices for each cross-attention.

    image_proj.proj.weight            image_proj.latents              ...        which tells the kind of projection
    ip_adapter.1.to_k_ip.weight       ip_adapter.1.to_v_ip.weight     ip_adapter.3. ...

Attentions are numbered on the way down, on the way up and in the middle, self-attentions (even numbers) included.
``.bin`` files hold the same as two dicts.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from dreambooth_jax.errors import InputError
from dreambooth_jax.models.components import KeyRules
from dreambooth_jax.models.ip_adapter import FullProjection, PlainProjection, PlusProjection
from dreambooth_jax.target import Arch
from dreambooth_jax.trees import Tree, flatten
from dreambooth_jax.weights.files import Leaf
from dreambooth_jax.weights.pretrained import Place, load_leaves, match
from dreambooth_jax.weights.single_file import read_single
from dreambooth_jax.weights.sources import Table

_STAGES = ("down_blocks", "up_blocks", "mid_block")
_PLAIN_TOKENS = 4
"""Of the plain projection, whose file does not tell; all that are published have so many."""
_HEAD = 64


class IPAdapter(NamedTuple):
    """What a file holds."""

    projection: nn.Module
    params: Tree
    """{"projection": ..., "key": {path of an attention: [d, c]}, "value": {...}}"""
    width: int
    """Features of what is projected."""
    of_states: bool
    """Whether hidden states are projected, rather than the image's embedding."""


def is_ip_adapter(file: Path) -> bool:
    """By the names in a file.

    Raises:
        InputError: if it is not there, or broken.
    """
    leaves, _ = read_single(file)
    return any(name.startswith(("image_proj.", "ip_adapter.")) for name in leaves)


def attention_paths(unet: Mapping[str, Any]) -> list[str]:
    """Cross-attentions of a denoiser in the order that files number them.

    Args:
        unet: its parameters, or their shapes, by name.
    """
    found = [match[1] for name in unet if (match := re.fullmatch(r"(.+/attn2)/to_k/kernel", name))]

    def order(path: str) -> tuple[int, list[int]]:
        stage = next(number for number, stage in enumerate(_STAGES) if path.startswith(stage))
        return stage, [int(number) for number in re.findall(r"_(\d+)(?=/)", path)]

    return sorted(found, key=order)


def read_ip_adapter(
    file: Path, unet: Mapping[str, jax.ShapeDtypeStruct], *, place: Place, dtype: DTypeLike, arch: Arch
) -> IPAdapter:
    """Read a file for a denoiser.

    Args:
        file: ``.safetensors`` or ``.bin``.
        unet: shapes of the denoiser's parameters, by name.
        place: puts an array onto devices; called with its name in ``params``.
        dtype: what to compute in.
        arch: what to compute on.

    Raises:
        InputError: if it is none, of a kind that we don't have, or for another denoiser.
    """
    leaves, _ = read_single(file)
    parts = {
        part: {name.removeprefix(f"{part}."): leaf for name, leaf in leaves.items() if name.startswith(f"{part}.")}
        for part in ("image_proj", "ip_adapter")
    }
    if not all(parts.values()):
        raise InputError(f"{file} is no IP-Adapter: it has no image_proj and ip_adapter")
    projection, width, of_states = _projection(file, parts["image_proj"], dtype=dtype, arch=arch)
    like = jax.ShapeDtypeStruct((1, 1, width) if of_states else (1, width), jnp.float32)
    expected = flatten(jax.eval_shape(projection.init, jax.eval_shape(lambda: jax.random.key(0)), like)["params"])
    found = match(KeyRules(), expected=expected, table=Table(parts["image_proj"], file, "the kind that its names tell"))
    params = {"projection": load_leaves("image_proj/", found, jnp.float32, place, file=file)}
    matrices = match(KeyRules(), expected=_matrices(unet), table=Table(parts["ip_adapter"], file, "the denoiser"))
    numbered = load_leaves("ip_adapter/", matrices, jnp.float32, place, file=file)
    for side, name in (("key", "to_k_ip"), ("value", "to_v_ip")):
        params[side] = {path: numbered[f"{2 * i + 1}"][name]["kernel"] for i, path in enumerate(attention_paths(unet))}
    return IPAdapter(projection, params, width, of_states)


def _matrices(unet: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        f"{2 * i + 1}/{name}/kernel": unet[f"{path}/to_k/kernel"]
        for i, path in enumerate(attention_paths(unet))
        for name in ("to_k_ip", "to_v_ip")
    }


def _projection(file: Path, leaves: Mapping[str, Leaf], **how: Any) -> tuple[nn.Module, int, bool]:
    """(module, features of what it projects, whether that is hidden states), by names and shapes."""

    def shape(name: str, *multiples: int) -> tuple[int, ...]:
        """As many sides as multiples, of which each is one, and not 0."""
        found = leaves[name].shape if name in leaves else ()
        fits = len(found) == len(multiples) and all(side and not side % of for side, of in zip(found, multiples))
        if not fits:
            has = f"has {name} {list(found)}" if name in leaves else f"lacks {name}"
            raise InputError(f"{file} is no IP-Adapter that we know: its image_proj {has}")
        return found

    if "proj.weight" in leaves:
        rows, width = shape("proj.weight", _PLAIN_TOKENS, 1)
        return PlainProjection(_PLAIN_TOKENS, rows // _PLAIN_TOKENS, **how), width, False
    if "latents" in leaves:
        _, tokens, inner = shape("latents", 1, 1, 1)
        layers = {match[1] for name in leaves if (match := re.match(r"layers\.(\d+)\.", name))}
        heads = shape("layers.0.0.to_q.weight", _HEAD, 1)[0] // _HEAD
        features, width = shape("proj_out.weight", 1, 1)[0], shape("proj_in.weight", 1, 1)[1]
        return PlusProjection(tokens, features, inner, len(layers), heads, **how), width, True
    if "proj.3.weight" in leaves:
        return FullProjection(shape("proj.3.weight", 1)[0], **how), shape("proj.0.weight", 1, 1)[1], True
    raise InputError(
        f"{file} is an IP-Adapter of another kind, for faces that another network recognises: take one of those "
        "called ip-adapter_sd15, ip-adapter-plus_sd15, ip-adapter-full-face_sd15 or ip-adapter_sdxl"
    )
