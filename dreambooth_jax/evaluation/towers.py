# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Vision towers, opened: pictures -> features, texts -> features, pairs of pictures -> distances.

They compute in float32, on all local devices, in batches of one size, so that each is compiled once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int, UInt8

from dreambooth_jax.data.images import to_float
from dreambooth_jax.data.tokenizer import Tokenizer, load_tokenizer
from dreambooth_jax.errors import InputError
from dreambooth_jax.evaluation.preprocess import Preprocessing, for_clip, for_dino, for_dinov2
from dreambooth_jax.models.components import ComponentKind
from dreambooth_jax.models.lpips import SMALLEST
from dreambooth_jax.models.towers import CLIP, DINO, DINOV2, LPIPS
from dreambooth_jax.target import Target
from dreambooth_jax.training.parallel.sharding import map_rows
from dreambooth_jax.trees import Tree
from dreambooth_jax.weights.pretrained import load_module
from dreambooth_jax.weights.single_module import open_module

Picture = UInt8[np.ndarray, "_ _ 3"]
ROWS = {"cpu": 8}
"""Of a batch, on all devices together."""
ROWS_OF_EACH = 32
"""Of a batch on each device of other platforms."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network with its weights on the devices.

    Attributes:
        module: the network.
        params: its parameters, whole on each device.
        mesh: the devices.
        fingerprint: of its files.
    """

    module: nn.Module
    params: Tree
    mesh: Mesh
    fingerprint: str

    def __call__(self, *inputs: np.ndarray, method: str = "__call__") -> Float[np.ndarray, "n *d"]:
        """Rows of inputs -> rows of outputs."""
        size = ROWS.get(self.mesh.devices.flat[0].platform, ROWS_OF_EACH * self.mesh.size)
        parts = [
            np.asarray(map_rows(self.mesh, _apply, (self.module, method), self.params, rows))[:count]
            for rows, count in batches(inputs, size)
        ]
        return np.concatenate(parts)


def batches(inputs: Sequence[np.ndarray], size: int) -> Iterator[tuple[tuple[np.ndarray, ...], int]]:
    """(rows, how many of them count): all batches have ``size``, the last is filled up with its last row."""
    count = len(inputs[0])
    for start in range(0, count, size):
        chosen = np.minimum(np.arange(start, start + size), count - 1)
        yield tuple(one[chosen] for one in inputs), min(size, count - start)


def _apply(module: nn.Module, method: str, params: Tree, inputs: tuple[Any, ...]) -> Any:
    return module.apply({"params": params}, *inputs, method=method)


@dataclass(frozen=True, kw_only=True)
class DinoTower:
    """DINO or DINOv2: what a picture shows."""

    network: Network
    preprocessing: Preprocessing

    @property
    def fingerprint(self) -> str:
        """Of its files."""
        return self.network.fingerprint

    def pictures(self, pictures: Sequence[Picture]) -> Float[np.ndarray, "n d"]:
        """Features; their length is left."""
        return self.network(self.preprocessing(pictures))


@dataclass(frozen=True, kw_only=True)
class ClipTower:
    """CLIP: pictures and texts in one space."""

    network: Network
    preprocessing: Preprocessing
    tokenizer: Tokenizer

    @property
    def fingerprint(self) -> str:
        """Of its files."""
        return self.network.fingerprint

    def pictures(self, pictures: Sequence[Picture]) -> Float[np.ndarray, "n d"]:
        """Features; their length is left."""
        return self.network(self.preprocessing(pictures), method="images")

    def texts(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Features; their length is left. Texts end after 77 tokens."""
        ids: Int[np.ndarray, "n t"] = self.tokenizer(texts)
        return self.network(ids, method="texts")


@dataclass(frozen=True, kw_only=True)
class LpipsTower:
    """LPIPS: how far apart two pictures look."""

    network: Network

    @property
    def fingerprint(self) -> str:
        """Of its file."""
        return self.network.fingerprint

    def __call__(self, x: UInt8[np.ndarray, "n h w 3"], y: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n"]:
        """Distance of each pair, of pictures as they are.

        Raises:
            InputError: if they are too small for its network.
        """
        net = self.network.module.config.net
        if min(x.shape[1:3]) < SMALLEST[net]:
            raise InputError(
                f"pictures of {x.shape[2]}x{x.shape[1]} pixels are too small for LPIPS with {net}, which needs "
                f"{SMALLEST[net]}: leave evaluate.lpips out"
            )
        return self.network(to_float(x), to_float(y))


def open_dino(source: str, target: Target) -> DinoTower:
    """DINO or DINOv2, whichever it says it is: a folder or hub id of transformers or timm, or a file of torch.hub's.

    Raises:
        InputError: if it is neither.
    """
    found = open_module(source, DINO)
    kinds: dict[Any, tuple[ComponentKind, Callable[[], Preprocessing]]]
    kinds = {"vit": (DINO, for_dino), "dinov2": (DINOV2, for_dinov2)}
    named = found.config.get("model_type")
    if named not in kinds:
        raise InputError(f"evaluate.dino = {source}: its model_type is {named!r}, not {' or '.join(kinds)}")
    kind, preprocessing = kinds[named]
    return DinoTower(network=_network(source, kind, target, found.fingerprint()), preprocessing=preprocessing())


def open_clip(source: str, target: Target) -> ClipTower:
    """CLIP with both encoders and its tokenizer: a folder or hub id of transformers.

    Raises:
        InputError: if it is none.
    """
    found = open_module(source, CLIP)
    network = _network(source, CLIP, target, found.fingerprint())
    config = network.module.config
    tokenizer = load_tokenizer(Path(found.file).parent, max_length=config.text.max_position_embeddings)
    return ClipTower(network=network, preprocessing=for_clip(config.vision.image_size), tokenizer=tokenizer)


def open_lpips(source: str, target: Target) -> LpipsTower:
    """LPIPS with AlexNet or VGG: a file with what ``lpips.LPIPS(...).state_dict()`` has.

    Raises:
        InputError: if it is none.
    """
    return LpipsTower(network=_network(source, LPIPS, target, open_module(source, LPIPS).fingerprint()))


def _network(source: str, kind: ComponentKind, target: Target, fingerprint: str) -> Network:
    whole = NamedSharding(target.mesh, PartitionSpec())
    place = partial(_put, whole)
    module, params = load_module(source, kind, place, dtype=jnp.float32, arch=target.arch)
    return Network(module=module, params=params, mesh=target.mesh, fingerprint=fingerprint)


def _put(sharding: NamedSharding, name: str, array: np.ndarray) -> jax.Array:
    del name
    return jax.device_put(array, sharding)
