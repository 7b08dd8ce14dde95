# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""LPIPS (Zhang et al. 2018): how far apart two pictures look, by the features of a classifier.

    d(x, y) = Σ_l mean over positions of w_l · (f_l(x) / |f_l(x)| − f_l(y) / |f_l(y)|)²

Named as the package ``lpips`` names it, version 0.1: ``net`` are the convolutions of torchvision's AlexNet or VGG-16,
``lin0`` to ``lin4`` the weights w. To have a file of both: ``torch.save(lpips.LPIPS(net="alex").state_dict(), FILE)``.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dreambooth_jax.models.layers import wide
from dreambooth_jax.models.model_config import Choices, ModelConfig


class Convolution(NamedTuple):
    """One of a classifier's."""

    number: int
    """Among all of its layers, which is its name."""
    features: int
    size: int = 3
    stride: int = 1


ALEXNET = (
    (Convolution(0, 64, size=11, stride=4),),
    (Convolution(3, 192, size=5),),
    (Convolution(6, 384),),
    (Convolution(8, 256),),
    (Convolution(10, 256),),
)
VGG16 = (
    (Convolution(0, 64), Convolution(2, 64)),
    (Convolution(5, 128), Convolution(7, 128)),
    (Convolution(10, 256), Convolution(12, 256), Convolution(14, 256)),
    (Convolution(17, 512), Convolution(19, 512), Convolution(21, 512)),
    (Convolution(24, 512), Convolution(26, 512), Convolution(28, 512)),
)
TRUNKS = {"alex": ALEXNET, "vgg": VGG16}
POOLS = {"alex": (3, (1, 2)), "vgg": (2, (1, 2, 3, 4))}
"""Size of the windows whose maximum is taken, every two positions, and the stages that it is taken before."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of pictures in [−1, 1], to what the classifiers were trained on."""
SMALLEST = {"alex": 31, "vgg": 16}
"""Pixels of a side, below which a stage would have none."""


@dataclass(frozen=True, kw_only=True)
class LPIPSConfig(ModelConfig):
    """Which classifier."""

    net: str = "alex"

    CHOICES: ClassVar[Choices] = {"net": tuple(TRUNKS)}
    IRRELEVANT: ClassVar[tuple[str, ...]] = ()


class Trunk(nn.Module):
    """A classifier's convolutions, and what each stage of them says."""

    net: str
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b H W 3"]) -> list[Float[Array, "b h w c"]]:
        (window, pooled), found = POOLS[self.net], []
        for stage, convolutions in enumerate(TRUNKS[self.net]):
            if stage in pooled:
                x = nn.max_pool(x, (window, window), strides=(2, 2))
            for one in convolutions:
                padding = one.size // 2 if one.size < 11 else 2
                conv = nn.Conv(
                    one.features,
                    (one.size, one.size),
                    strides=one.stride,
                    padding=padding,
                    dtype=self.dtype,
                    name=f"slice{stage + 1}_{one.number}",
                )
                x = nn.relu(conv(x))
            found.append(x)
        return found


class Weights(nn.Module):
    """How much each feature counts."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w 1"]:
        return nn.Conv(1, (1, 1), use_bias=False, dtype=self.dtype, name="model_1")(x)


class LPIPSModel(nn.Module):
    """The distance.

    Attributes:
        config: which classifier.
        dtype: what to compute in.
    """

    config: LPIPSConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"], y: Float[Array, "b h w 3"]) -> Float[Array, "b"]:
        """Distances of pictures in [−1, 1], in at least float32; of equal ones zero, to the square of rounding."""
        precise = wide(self.dtype)
        shift, scale = (np.asarray(one, precise)[None, None, None] for one in (SHIFT, SCALE))
        both = ((jnp.concatenate([x, y]).astype(precise) - shift) / scale).astype(self.dtype)
        total = jnp.zeros(len(x), precise)
        for stage, features in enumerate(Trunk(self.config.net, self.dtype, name="net")(both)):
            features = features.astype(precise)
            length = jnp.sqrt(jnp.sum(features**2, axis=-1, keepdims=True))
            ours, theirs = jnp.split(features / (length + 1e-10), 2)
            weighted = Weights(precise, name=f"lin{stage}")((ours - theirs) ** 2)
            total = total + weighted.mean((1, 2, 3))
        return total
