# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Masks of photos as weights of the loss: what is white, or opaque, counts whole, the rest less.

    mask of the photo --view--> mask of the training image --mean over each latent's pixels--> m
    weight of a latent = unmasked + (1 - unmasked) m

They lie beside the photos (``a.png`` and ``a-mask.png``, ``a.mask.png``, ``a_mask.png`` or ``a-masklabel.png``), in a
folder ``masks`` under the photo's name with any ending, or are the photo's own alpha channel. A photo without a mask
counts everywhere.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float32
from PIL import Image

from dreambooth_jax.data import images
from dreambooth_jax.errors import InputError
from dreambooth_jax.size import Size

MaskKind: TypeAlias = Literal["none", "alpha", "files"]
ENDINGS = ("-mask", ".mask", "_mask", "-masklabel")
FOLDERS = ("masks", "mask")


def masks_among(names: Collection[str]) -> list[str]:
    """Those of these files that are the mask of another of them."""
    stems = {name: Path(name).with_suffix("").as_posix() for name in names}
    masked = {f"{stem}{ending}" for stem in stems.values() for ending in ENDINGS}
    return [name for name, stem in stems.items() if stem in masked]


def called_as_masks(names: Collection[str]) -> bool:
    """Whether all files are called as masks are, of which some may be of none of them."""
    return bool(names) and all(Path(name).stem.endswith(ENDINGS) for name in names)


def mask_of(picture: Path) -> Path | None:
    """The mask of a picture, where it has one."""
    places = [(picture.parent, f"{picture.stem}{ending}") for ending in ENDINGS]
    places += [(picture.parent / folder, picture.stem) for folder in FOLDERS]
    for folder, stem in places:
        found = sorted(path for path in folder.glob("*.*") if path.stem == stem) if folder.is_dir() else []
        if found:
            return found[0]
    return None


def read_mask(source: Path | bytes, kind: MaskKind, *, name: str) -> Image.Image:
    """A mask of eight bits: the brightness of a file, or the opacity of a picture.

    Raises:
        InputError: if it cannot be read.
    """
    if kind == "alpha":
        return images.decode(source, name=name, keep_alpha=True).getchannel("A")
    return images.decode(source, name=name, background="black").convert("L")


def latent_mask(mask: Image.Image, *, size: Size, view: images.View, factor: int) -> Float32[np.ndarray, "h w"]:
    """The share of each latent's pixels that is masked, in a view of the photo.

    Args:
        mask: of the whole photo.
        size: of the training image.
        view: of the photo.
        factor: pixels of a latent's side.

    Raises:
        InputError: if the size is no multiple of the factor.
    """
    if size.height % factor or size.width % factor:
        raise InputError(f"{size.words} pixels are no multiple of {factor}")
    pixels = images.cut(mask, size=size, view=view, kernel=Image.Resampling.BOX).astype(np.float32) / np.float32(255)
    return pixels.reshape(size.height // factor, factor, size.width // factor, factor).mean((1, 3))
