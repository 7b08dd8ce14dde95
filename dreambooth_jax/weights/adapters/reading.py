# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A file of an adapter -> what becomes of which layers. Nothing is asked of a model: names and shapes tell."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from dreambooth_jax.errors import InputError
from dreambooth_jax.paths import at_home
from dreambooth_jax.weights.adapters.dialects import MAGNITUDE, Key, read_key
from dreambooth_jax.weights.adapters.lidb_seed import with_seed
from dreambooth_jax.weights.adapters.methods import Module, method_of, odd_shape, to_ours, unmet_ranks
from dreambooth_jax.weights.adapters.paths import USUAL, Layers
from dreambooth_jax.weights.adapters.peft_settings import alphas_of
from dreambooth_jax.weights.files import Leaf
from dreambooth_jax.weights.single_file import read_single
from dreambooth_jax.weights.word_shapes import may_be_words

EMBEDDINGS = "bundle_emb."
"""What names of words begin with that A1111 and OneTrainer put into the file of an adapter."""


@dataclass(frozen=True, kw_only=True)
class AdapterFile:
    """What a file of an adapter holds.

    Attributes:
        file: where it is.
        networks: network -> path of a layer in its parameters -> what becomes of it.
        metadata: what the file says of itself.
        dialects: that its names are of.
        embeddings: words that come with it, by their names in the file.
    """

    file: Path
    networks: Mapping[str, Mapping[str, Module]]
    metadata: Mapping[str, str] = field(default_factory=dict)
    dialects: frozenset[str] = frozenset()
    embeddings: Mapping[str, Leaf] = field(default_factory=dict)


def read_adapter(path: str | Path, *, layers: Layers = USUAL) -> AdapterFile:
    """Read a file, in any dialect: ``.safetensors``, or one of PyTorch's own.

    Args:
        path: of the file.
        layers: of each block of the denoiser that it is for, as ``paths.layers_of`` tells.

    Raises:
        InputError: if it is not there, broken, no adapter, not complete, or has numbers that are not finite.
    """
    file = at_home(path)
    leaves, metadata = read_single(file)
    keys = {name: key for name in leaves if (key := read_key(name, layers)) is not None}
    embeddings = {name: leaf for name, leaf in leaves.items() if name.startswith(EMBEDDINGS)}
    unknown = sorted(leaves.keys() - keys.keys() - embeddings.keys())
    if not keys:
        raise _no_adapter(file, leaves)
    if unknown:
        raise InputError(
            f"{file} has {len(unknown)} arrays that no adapter has, such as {unknown[0]}: "
            f"dreambooth-jax check {file} tells more"
        )
    if same := named_twice(keys):
        raise InputError(f"{file} is broken: {same[0]} and {same[1]} are the same tensor of the same layer")
    networks: dict[str, dict[str, Module]] = {}
    for (network, layer), names in by_layer(keys).items():
        tensors = {tensor: _loaded(file, name, leaves[name]) for tensor, name in names.items()}
        tensors = with_seed(tensors, metadata, file=file)
        networks.setdefault(network, {})[layer] = _module(file, f"{network}/{layer}", tensors)
    networks = alphas_of(networks, keys, metadata, file=file)
    dialects = frozenset(key.dialect for key in keys.values())
    return AdapterFile(file=file, networks=networks, metadata=metadata, dialects=dialects, embeddings=embeddings)


_OF_LAYERS = (".weight", ".bias")
"""Ends of names that no word has."""


def _no_adapter(file: Path, leaves: Mapping[str, Leaf]) -> InputError:
    if may_be_words(leaves) and not any(name.endswith(_OF_LAYERS) for name in leaves):
        return InputError(
            f"{file} is no adapter, but holds new words (textual inversion): give it with embedding={file}"
        )
    some = ", ".join(sorted(leaves)[:3]) or "nothing"
    return InputError(
        f"{file} is no adapter: its arrays are called {some}; dreambooth-jax check {file} tells what it is"
    )


def by_layer(keys: Mapping[str, Key]) -> dict[tuple[str, str], dict[str, str]]:
    """(network, path) -> tensor -> its name in the file."""
    layers: dict[tuple[str, str], dict[str, str]] = {}
    for name, key in keys.items():
        layers.setdefault((key.network, key.path), {})[key.tensor] = name
    return layers


def named_twice(keys: Mapping[str, Key]) -> tuple[str, str] | None:
    """Two names that mean the same, as where a file has a layer in two dialects; None where there are none."""
    names: dict[tuple[str, str, str], str] = {}
    for name, key in keys.items():
        first = names.setdefault(key[1:], name)
        if first != name:
            return first, name
    return None


def _loaded(file: Path, name: str, leaf: Leaf) -> np.ndarray:
    if leaf.shape in ((), (1,)) and jnp.issubdtype(
        leaf.dtype, jnp.integer
    ):  # an alpha, a seed, or which side is scaled
        return leaf.load().astype(np.float32) if name.endswith(".alpha") else leaf.load()
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise InputError(f"{file}: {name} is {leaf.dtype.name}, not real: take a file that is not quantised")
    array = leaf.load()
    if not np.isfinite(array).all():
        raise InputError(f"{file}: {name} has values that are not finite: take another copy")
    return array


def _module(file: Path, layer: str, tensors: Mapping[str, Any]) -> Module:
    ours = laid_out(tensors)
    method = method_of(ours)
    if method is None:
        raise InputError(
            f"{file} has {', '.join(sorted(tensors))} of {layer}: together that is no adapter that we know"
        )
    if odd := odd_shape(ours):
        raise InputError(f"{file}: {odd} of {layer} has the shape {list(ours[odd].shape)}, which no adapter gives it")
    if unmet := unmet_ranks(ours):
        raise InputError(f"{file} is broken: of {layer} {unmet}")
    return Module(method, ours)


def laid_out(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The tensors of a layer as we have them: PEFT's magnitudes are a ``dora_scale``, an alpha is one number."""
    ours: dict[str, Any] = {name: to_ours(array) for name, array in tensors.items() if name != MAGNITUDE}
    if MAGNITUDE in tensors:
        axes = ours["lora_down"].ndim if "lora_down" in ours else 2
        ours["dora_scale"] = tensors[MAGNITUDE].reshape(*(1,) * (axes - 1), -1)  # one for each output
    for name in ("alpha", "on_input"):
        if name in ours and ours[name].size == 1:  # some tools write [1]
            ours[name] = ours[name].reshape(())
    return ours
