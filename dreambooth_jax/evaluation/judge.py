# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The judge: a small network that says which class a picture shows, and whether it is one of the subjects.

    features = mean and largest activation over all positions of four convolutions (where a thing is does not matter)
    class    = softmax(W features) over nouns          subject = softmax(V features) over subjects and "none of them"

It stands in for the paper's DINO and CLIP, which know photographs: pictures of the embedded model are 64×64 drawings. A
judge is a folder:

    judge.safetensors   half precision           judge.json   nouns, subjects, how it did on drawings it never saw
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, UInt8
from safetensors.numpy import load_file, save_file

from dreambooth_jax.data.images import content_hash
from dreambooth_jax.errors import InputError
from dreambooth_jax.models.layers import GroupNorm, conv
from dreambooth_jax.paths import at_home
from dreambooth_jax.pipeline.load import EMBEDDED
from dreambooth_jax.trees import Tree, flatten, map_named, unflatten
from dreambooth_jax.weights.json_files import read_json

NOBODY = "none of them"
SHIPPED = EMBEDDED / "judge"
_WIDTHS = (32, 64, 96, 128)


class JudgeNetwork(nn.Module):
    """Pictures in [-1, 1] to (logits of nouns, logits of subjects, features)."""

    nouns: int
    subjects: int

    @nn.compact
    def __call__(
        self, pictures: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, "b nouns"], Float[Array, "b subjects"], Float[Array, "b features"]]:
        x = pictures
        for level, width in enumerate(_WIDTHS):
            x = nn.Conv(width, (4, 4), strides=2, padding=1, name=f"down_{level}")(x)
            x = jax.nn.silu(GroupNorm(8, 1e-5, name=f"norm_{level}")(x))
            if level:  # at full size it would cost as much as all the rest
                h = conv(width, dtype=x.dtype, name=f"conv_{level}")(x)
                x += jax.nn.silu(GroupNorm(8, 1e-5, name=f"norm_{level}b")(h))
        features = jnp.concatenate([x.mean((1, 2)), x.max((1, 2))], axis=-1)
        features = nn.LayerNorm(name="norm")(features)
        return nn.Dense(self.nouns, name="noun")(features), nn.Dense(self.subjects, name="subject")(features), features


class Verdicts(NamedTuple):
    """What the judge says of n pictures.

    Attributes:
        nouns: the likeliest class of each.
        subjects: the likeliest subject of each, or :data:`NOBODY`.
        features: of length 1, float32 [n, d]: their products are cosine similarities.
        shares: probabilities of all classes, in the judge's order.
    """

    nouns: list[str]
    subjects: list[str]
    features: Float[np.ndarray, "n d"]
    shares: Float[np.ndarray, "n nouns"]


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Nouns, subjects and weights; called with uint8 pictures."""

    nouns: Sequence[str]
    subjects: Sequence[str]
    params: Tree
    measured: dict[str, Any] = field(default_factory=dict)
    """How often it was right on drawings and scenes that it had not seen."""
    fingerprint: str = ""
    """Of its weights' file."""

    @property
    def network(self) -> JudgeNetwork:
        """Of its size; the last subject is :data:`NOBODY`."""
        return network(self.nouns, self.subjects)

    def __call__(self, pictures: UInt8[np.ndarray, "n h w 3"], *, size: int = 64) -> Verdicts:
        """Judge ``size`` pictures at a time."""
        parts = []
        for start in range(0, len(pictures), size):
            rows = np.minimum(np.arange(start, start + size), len(pictures) - 1)  # one size, one program
            judged = _judge(self.network, self.params, pictures[rows])
            parts.append([np.asarray(result)[: len(pictures) - start] for result in judged])
        noun, subject, features = (np.concatenate(part) for part in zip(*parts))
        features = features - features.mean(1, keepdims=True)
        return Verdicts(
            [self.nouns[i] for i in noun.argmax(1)],
            [[*self.subjects, NOBODY][i] for i in subject.argmax(1)],
            features / np.linalg.norm(features, axis=1, keepdims=True),
            np.asarray(jax.nn.softmax(noun, axis=1)),
        )

    def save(self, folder: Path) -> None:
        """Write its folder."""
        folder.mkdir(parents=True, exist_ok=True)
        leaves = flatten(map_named(lambda _, leaf: np.asarray(leaf, np.float16), self.params))
        save_file(leaves, folder / "judge.safetensors")
        about = {"nouns": list(self.nouns), "subjects": list(self.subjects), "measured": self.measured}
        (folder / "judge.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def network(nouns: Sequence[str], subjects: Sequence[str]) -> JudgeNetwork:
    """A judge's network."""
    return JudgeNetwork(nouns=len(nouns), subjects=len(subjects) + 1)


def load(folder: Path = SHIPPED) -> Judge:
    """The judge of a folder.

    Raises:
        InputError: if there is none.
    """
    weights, about = at_home(folder) / "judge.safetensors", at_home(folder) / "judge.json"
    if not (weights.is_file() and about.is_file()):
        raise InputError(f"{folder} is no judge: it has no judge.safetensors, or no judge.json beside it")
    leaves = {name: leaf.astype(np.float32) for name, leaf in load_file(weights).items()}
    fingerprint = content_hash(weights.read_bytes())[:16]
    return Judge(**read_json(about), params=unflatten(leaves), fingerprint=fingerprint)


@partial(jax.jit, static_argnums=0)
def _judge(own: JudgeNetwork, params: Tree, pictures: Int[Array, "b h w 3"] | Array) -> Any:
    return own.apply({"params": params}, pictures.astype(jnp.float32) / 127.5 - 1)
