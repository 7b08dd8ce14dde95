# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Given pictures and masks, at the size that is drawn, and the way back into the pictures that they are parts of."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dreambooth_jax.config.drawing import DrawingConfig
from dreambooth_jax.config.sampling import LARGEST_SIDE
from dreambooth_jax.data.masks import Box, Mask, Sides, blurred, crop_region, extend, paste, transparent
from dreambooth_jax.data.pictures import Picture, covering, middle, picture_size, resampled
from dreambooth_jax.errors import InputError
from dreambooth_jax.size import Size


@dataclass(frozen=True, kw_only=True, eq=False)
class Canvas:
    """What is drawn on; one of each list for all pictures of a call, or one for each.

    Attributes:
        size: of what is drawn, in pixels.
        pictures: of that size.
        masks: of that size, 1 where something is drawn anew; None where all is.
        whole: the pictures that the result is pasted into; empty without masks.
        soft: their masks, with soft edges.
        boxes: where in them the drawn part lies.
    """

    size: Size
    pictures: list[Picture]
    masks: list[Mask] | None = None
    whole: list[Picture]
    soft: list[Mask]
    boxes: list[Box]

    def finish(self, images: Float[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b H W 3"]:
        """Drawn pictures in [0, 1] -> those that they are parts of: what is not masked is the given picture's own."""
        if self.masks is None:
            return images
        images, count = np.asarray(images, np.float32), len(images)
        parts = (given * count if len(given) == 1 else given for given in (self.whole, self.soft, self.boxes))
        return np.stack([_pasted(image, *of_one) for image, *of_one in zip(images, *parts, strict=True)])


def make_canvas(
    pictures: list[Picture], masks: list[Mask] | None, settings: DrawingConfig, *, factor: int, native: int
) -> Canvas:
    """What is drawn on.

    Args:
        pictures: as they were given, of one size; with opacity where it is the mask.
        masks: of their size; None where all is drawn anew, or where the mask is the pictures' opacity.
        settings: height, width and those of masks.
        factor: pixels of a latent, along one side.
        native: pixels of the side that the model was made for.

    Raises:
        InputError: if masks and pictures do not fit each other, or nothing is masked.
    """
    if pictures[0].shape[-1] == 4:
        pictures, masks = map(list, zip(*(transparent(picture) for picture in pictures)))
    pictures, masks = _alike(pictures, masks)
    if any(settings.outpaint):
        sides = Sides(*settings.outpaint)
        masks = masks or [np.zeros(picture.shape[:2], np.float32) for picture in pictures]
        extended = [extend(picture, mask, sides) for picture, mask in zip(pictures, masks)]
        pictures, masks = map(list, zip(*extended))
    told = {"height": settings.height, "width": settings.width}
    if masks is not None and settings.mask_padding is not None:
        size = Size(*(side or native for side in told.values()))
        soft = [blurred(mask, settings.mask_blur) for mask in masks]
        boxes = [crop_region(mask, padding=settings.mask_padding, aspect=size) for mask in soft]
        return Canvas(
            size=size,
            pictures=[resampled(picture, size, box=box) for picture, box in zip(pictures, boxes)],
            masks=[resampled(mask[..., None], size, box=box)[..., 0] for mask, box in zip(masks, boxes)],
            whole=pictures,
            soft=soft,
            boxes=boxes,
        )
    size = picture_size(pictures[0], **told, factor=factor, most=LARGEST_SIDE)
    cut = covering if any(told.values()) else middle
    pictures = [cut(picture, size) for picture in pictures]
    masks = None if masks is None else [cut(mask[..., None], size)[..., 0] for mask in masks]
    soft = [blurred(mask, settings.mask_blur) for mask in masks or []]
    boxes = [Box(0, 0, size.width, size.height)] * len(soft)
    return Canvas(size=size, pictures=pictures, masks=masks, whole=pictures, soft=soft, boxes=boxes)


def _alike(pictures: list[Picture], masks: list[Mask] | None) -> tuple[list[Picture], list[Mask] | None]:
    """As many masks as pictures, of the same size."""
    if masks is None:
        return pictures, None
    for mask in masks:
        if mask.shape != pictures[0].shape[:2]:
            sizes = (f"{width}x{height}" for height, width in (mask.shape, pictures[0].shape[:2]))
            raise InputError("mask is {}, image is {}: they must have one size".format(*sizes))
    if not all(mask.max() > 0 for mask in masks):
        raise InputError("mask is black: nothing is to be drawn anew; white is what changes")
    count = max(len(pictures), len(masks))
    pictures, masks = (each * count if len(each) == 1 else each for each in (pictures, masks))
    if len(pictures) != len(masks):
        raise InputError(f"{len(masks)} masks do not fit {len(pictures)} images: give one, or one for each")
    return pictures, masks


def _pasted(image: Picture, whole: Picture, soft: Mask, box: Box) -> Picture:
    new = whole.copy()
    part = image if image.shape[:2] == box.size else resampled(image, box.size)
    new[box.top : box.bottom, box.left : box.right] = part
    return paste(whole, new, soft)
