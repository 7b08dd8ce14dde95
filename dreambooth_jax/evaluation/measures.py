# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The measures of the DreamBooth paper (Ruiz et al. 2022, § 4.2, 4.3) and of PEFT's comparison, from features.

| measure | of | what it is |
|---|---|---|
| DINO, CLIP-I | pictures of the subject, its photos | mean cosine over all pairs: subject fidelity |
| CLIP-T | pictures and their prompts without the identifier | mean cosine: prompt fidelity |
| PRES | pictures of the class prompt, the subject's photos | mean cosine over all pairs; less is better |
| DIV | pictures of one prompt | mean LPIPS over all pairs of different ones; more is better |
| drift | pictures of other prompts, before and after training | (1 - cosine) / 2 of each pair of one prompt and seed |
"""

from collections.abc import Callable
from itertools import combinations

import numpy as np
from jaxtyping import Float


def unit(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Of length 1, in float64."""
    features = np.asarray(features, np.float64)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def between(ours: Float[np.ndarray, "n d"], theirs: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n"]:
    """Of each of ours, the mean cosine with all of theirs."""
    return unit(ours) @ unit(theirs).mean(0)


def paired(ours: Float[np.ndarray, "n d"], theirs: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n"]:
    """Of each of ours, the cosine with the one of theirs at its place."""
    return np.sum(unit(ours) * unit(theirs), axis=1)


def drifted(before: Float[np.ndarray, "n d"], after: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n"]:
    """From 0 for the same picture to 1 for the opposite."""
    return (1 - paired(before, after)) / 2


def over_pairs(
    distance: Callable[[np.ndarray, np.ndarray], Float[np.ndarray, "n"]], pictures: np.ndarray
) -> Float[np.ndarray, "n"]:
    """A distance of all pairs of different pictures, of which there are at least two."""
    first, second = (list(side) for side in zip(*combinations(range(len(pictures)), 2)))
    return distance(pictures[first], pictures[second])
