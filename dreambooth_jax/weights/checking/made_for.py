# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Which published model an adapter is made for, by the layers that it changes."""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Literal

import numpy as np

from dreambooth_jax.weights.adapters.methods import Module
from dreambooth_jax.weights.checking.bases import BASES
from dreambooth_jax.weights.checking.layers import Layer
from dreambooth_jax.weights.checking.widths import Widths, denoiser_widths, text_widths
from dreambooth_jax.weights.modelspec import PREFIX, SPEC_VERSION, implementation_of


@cache
def layers_of_base(name: str) -> Mapping[str, Mapping[str, Widths]]:
    """network -> path -> widths, of all layers of one of ``BASES``."""
    base = BASES[name]
    texts = {network: text_widths(config) for network, config in base.text_encoders.items()}
    return {"unet": denoiser_widths(base.unet), **texts}


def base_of(layers: list[Layer]) -> str | None:
    """The model that most of the layers that tell are of, as one of ``BASES`` or in words; None where none tells."""
    votes = Counter(dict.fromkeys(BASES, 0))
    for layer in layers:
        votes.update(_told_by(layer))
    most = max(votes, key=votes.__getitem__)
    return most if votes[most] else None


def _told_by(layer: Layer) -> Iterator[str]:
    """The models whose layer it may be, of a layer that is not the same in all."""
    width = inputs_of(layer.module)
    if layer.network == "unet":
        if width is not None and layer.path.endswith(("attn2/to_k", "attn2/to_v")):
            alike = [one.name for one in BASES.values() if one.unet.cross_attention_dim == width]
            yield from alike or [f"a model whose text has {width} channels"]
        return
    if width is not None and layer.path.endswith("q_proj"):
        alike = [name for name in BASES if _may_have(name, layer, width)]
        yield from alike or [f"a model whose text encoder has {width} channels"]
    elif layer.network == "text_encoder_2":
        yield from (name for name in BASES if _may_have(name, layer, width))


def _may_have(name: str, layer: Layer, width: int | None) -> bool:
    """Whether a layer of a text encoder may be of a model, by its name and by what it takes."""
    config = BASES[name].text_encoders.get(layer.network)
    own = layers_of_base(name).get(layer.network, {}).get(layer.path)
    if (
        config is None
        or (own is not None and width not in (None, own.inputs))
        or (own is None and width != config.hidden_size)
    ):
        return False
    prefix = BASES[name].family.naming.kohya[layer.network]
    return layer.dialect != "kohya" or layer.names[0].startswith(prefix)


def inputs_of(module: Module) -> int | None:
    """Channels that the changed layer takes, where one tensor tells."""
    for name in ("lora_down", "hada_w1_b", "diff"):
        if name in module.tensors and np.ndim(module.tensors[name]) >= 2:
            return int(module.tensors[name].shape[-2])
    return None


def texts_of_base(name: str | None, *, part: Literal["lora", "textual-inversion"], title: str) -> dict[str, str]:
    """Metadata for a file of which no more is known than what it holds: which model it is for, as far as that tells.

    Args:
        name: of the model, as ``base_of`` tells it.
        part: what of a model the file holds.
        title: of the file.
    """
    if name not in BASES:
        return {f"{PREFIX}title": title}
    base = BASES[name]
    naming = base.family.naming
    texts = {"ss_v2": str(base.version == 2), f"{PREFIX}title": title}
    if version := naming.base or ("sd_v1" if base.version == 1 else None):
        texts["ss_base_model_version"] = version
    if base.architecture:
        own = {
            "sai_model_spec": SPEC_VERSION,
            "architecture": f"{base.architecture}/{part}",
            "implementation": implementation_of(base.family, part),
            "resolution": f"{base.side}x{base.side}",
        }
        texts |= {f"{PREFIX}{key}": text for key, text in own.items()}
    return texts
