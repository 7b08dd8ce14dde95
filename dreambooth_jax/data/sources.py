# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Where pictures come from: a folder of photos, or a data set of the Hugging Face hub.

Every picture is decoded once while the collection is made, so that whatever is wrong with one is known before anything
is compiled. A damaged picture among good ones costs a warning that names it; a folder without a usable picture is an
error that says what was found. Folders are read with Pillow alone, tables of captions included; ``datasets`` is
imported where a hub id was given or the folder holds Parquet files.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from dreambooth_jax.data import images, picture_table, prompts
from dreambooth_jax.data.data_sets import Found, from_data_set
from dreambooth_jax.data.loss_masks import FOLDERS as MASKS
from dreambooth_jax.data.loss_masks import MaskKind, called_as_masks, latent_mask, mask_of, masks_among, read_mask
from dreambooth_jax.errors import InputError
from dreambooth_jax.paths import at_home
from dreambooth_jax.size import Size

log = logging.getLogger(__name__)

# Files that mean to be pictures. HEIC is here so that a phone's photo is named with the way out, not passed over.
PICTURE = re.compile(r".+\.(jpe?g|jpe|jfif|png|webp|avif|gif|bmp|tiff?|jp2|p[bgnp]m|hei[cf])", re.IGNORECASE)
# Files that keep pictures company and are not worth a line.
COMPANY = re.compile(r"\..*|.+\.(txt|jsonl?|csv|md)|thumbs\.db|desktop\.ini", re.IGNORECASE)
SQUARE = Size(512, 512)
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


@dataclass(frozen=True, kw_only=True)
class Photo:
    """One picture that is known to decode, and its prompt."""

    name: str
    """File name, relative to its folder."""
    prompt: str
    """Its caption or the collection's prompt, fields filled in."""
    digest: str
    """Content hash of its file."""
    file: Path | bytes = field(repr=False)
    background: str = "white"
    """Colour under transparent pixels."""
    has_caption: bool = False
    """Is the prompt its own?"""
    shape: Size = SQUARE
    """Height and width, up to a factor."""
    masks: MaskKind = "none"
    """What says where its loss counts."""
    mask_digest: str = ""
    """Content hash of its mask's file, where it has one."""
    weight: float = 1.0
    """Of its loss."""

    def image(self, at_least: int | None = None) -> Image.Image:
        """The upright RGB picture; see :func:`images.decode` for ``at_least``."""
        return images.decode(self.file, background=self.background, at_least=at_least, name=self.name)

    def views(
        self, *, size: Size, crop: Literal["center", "random"], flip: bool, seed: int, colour: float = 0.0
    ) -> UInt8[np.ndarray, "v {size.height} {size.width} 3"]:
        """Its fixed list of views, in so many pixels."""
        image = self.image(at_least=max(size))
        chosen = images.views(crop, flip=flip, digest=self.digest, seed=seed, colour=colour)
        return np.stack([images.crop_resize(image, size=size, view=view) for view in chosen])

    def latent_masks(
        self, *, size: Size, crop: Literal["center", "random"], flip: bool, seed: int, colour: float, factor: int
    ) -> Float32[np.ndarray, "v h w"]:
        """Of each of its views, where its loss counts: the masked share of the pixels of each latent."""
        chosen = images.views(crop, flip=flip, digest=self.digest, seed=seed, colour=colour)
        mask = self.mask()
        if mask is None:
            return np.ones((len(chosen), *size.latents(factor)), np.float32)
        return np.stack([latent_mask(mask, size=size, view=view, factor=factor) for view in chosen])

    def mask(self) -> Image.Image | None:
        """Its mask, of its own size; None where it counts everywhere."""
        if self.masks == "alpha":
            return read_mask(self.file, "alpha", name=self.name)
        file = mask_of(self.file) if self.masks == "files" and isinstance(self.file, Path) else None
        return read_mask(file, "files", name=str(file)) if file else None


def load_images(
    source: str | Path,
    *,
    prompt: str,
    subject: prompts.Subject,
    use_captions: bool = True,
    background: str = "white",
    size: Size = SQUARE,
    masks: MaskKind = "none",
) -> tuple[Photo, ...]:
    """The usable pictures of a source, in the order of their names (a data set keeps its own order).

    Args:
        source: a folder (its ``train`` subfolder, if the pictures are there), or a hub id such as ``owner/name``
            or ``owner/name:config``; only a hub id touches the network.
        prompt: template of the pictures that have no caption.
        size: of a training image; smaller pictures are reported.
        masks: what says where a picture counts. A mask that lies beside its photo is no picture in any case.

    Raises:
        InputError: nothing is there, nothing in it is usable or has a weight, or prompt, captions, weights or
            background cannot be read.
    """
    images.colour(background)
    default = subject.fill(prompt)
    photos, small, failed = [], [], []
    for name, file, caption, weight in _without_masks(str(source), list(_find(str(source), use_captions)), masks):
        try:
            data = file.read_bytes() if isinstance(file, Path) else file
            width, height = images.decode(data, background=background, at_least=max(size), name=name).size
        except (InputError, OSError) as error:
            failed.append(str(error))
            continue
        own = caption if use_captions else None
        try:
            text = subject.fill(own) if own else default
        except InputError as error:
            raise InputError(f"{source}: caption of {name}: {error}") from error
        digest = images.content_hash(data)
        photos.append(
            Photo(
                name=name,
                prompt=text,
                has_caption=bool(own),
                digest=digest,
                file=file,
                background=background,
                shape=Size(height, width),
                masks=masks,
                mask_digest=_mask_digest(file, Size(height, width)) if masks == "files" else "",
                weight=weight,
            )
        )
        if width < size.width or height < size.height:
            small.append(f"{name} ({width}x{height})")
    _check_any(source, photos, failed)
    _report(str(source), photos, small, failed, size)
    return tuple(photos)


def _without_masks(source: str, found: list[Found], masks: MaskKind) -> list[Found]:
    names = [one.name for one in found]
    beside = masks_among(names)
    if called_as_masks(names):
        log.warning(
            "%s: all its pictures are called as masks are, of pictures that are not there: %s", source, _some(names)
        )
    if beside and masks != "files":
        log.warning("%s: masks, so left out: %s; data.masks=files weighs photos by them", source, _some(beside))
    return [one for one in found if one.name not in beside]


def _mask_digest(file: Path | bytes, shape: Size) -> str:
    """Raises InputError, now rather than later, if the mask cannot be read or is of another shape than its photo."""
    mask = mask_of(file) if isinstance(file, Path) else None
    if mask is None:
        return ""
    width, height = read_mask(mask, "files", name=str(mask)).size
    if abs(width * shape.height - height * shape.width) > 0.02 * width * shape.height:
        raise InputError(
            f"{mask}: {width}x{height} is not the shape of its photo, {shape.words}: make it as the photo is"
        )
    return images.content_hash(mask.read_bytes())


def _check_any(source: str | Path, photos: list[Photo], failed: list[str]) -> None:
    if not photos:
        raise InputError(f"{source}: no usable picture; {_inventory(at_home(source), failed)}")
    if not any(photo.weight for photo in photos):
        raise InputError(f"{source}: all pictures have weight 0, so none would be learned: leave some at 1")


def _report(source: str, photos: list[Photo], small: list[str], failed: list[str], size: Size) -> None:
    """One line for whatever the owner of the pictures should know."""
    for line in failed:
        log.warning("%s: left out: %s", source, line)
    if small:
        log.warning("%s: smaller than %s pixels, so enlarged: %s", source, size.setting, _some(small))
    if own := [photo.weight for photo in photos if photo.weight != 1]:
        log.info("%s: %d of %d pictures have weights, %g to %g", source, len(own), len(photos), min(own), max(own))
    first: dict[str, str] = {}
    for photo in photos:
        if (twin := first.setdefault(photo.digest, photo.name)) != photo.name:
            log.warning("%s: %s and %s are the same picture, which counts twice", source, twin, photo.name)


def _some(names: list[str], most: int = 5) -> str:
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join([*names[:most], *more])


def _inventory(folder: Path, failed: list[str]) -> str:
    """What is there instead of pictures."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    kinds = Counter("folder" if path.is_dir() else path.suffix.lower() or path.name for path in paths)
    held = "it holds " + (", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "nothing")
    if texts := [path.name for path in paths if path.suffix.lower() == ".txt"]:
        held += f"; texts alone are no pictures: {_some(texts)}" if len(texts) == len(paths) else ""
    return f"left out: {_some(failed)}" if failed else held


def _find(source: str, use_captions: bool) -> Iterable[Found]:
    """Decide what kind of source it is."""
    folder = at_home(source)
    if not source.strip():
        raise InputError("no pictures were given: name a folder of photos, or a data set's hub id (owner/name)")
    if folder.is_file():
        raise InputError(f"{source}: a file; name the folder that holds the pictures")
    if folder.is_dir():
        parquet = [*folder.glob("*.parquet"), *folder.glob("data/*.parquet")]
        return from_data_set(str(folder), folder=folder) if parquet else _from_folder(folder, use_captions)
    # owner/name may be a hub id, unless "owner" is a folder here: then it is a path with a slip in it.
    if not HUB_ID.fullmatch(source) or folder.parent.is_dir():
        raise InputError(f"{source}: no such folder; name a folder of photos, or a data set's hub id (owner/name)")
    return from_data_set(*source.split(":"))


def _from_folder(folder: Path, use_captions: bool) -> Iterator[Found]:
    """Pictures of a folder, and those in subfolders that its table names."""
    table = picture_table.read_metadata(folder)
    there = _pictures(folder)
    names = there | table.keys()
    if not names and (folder / "train").is_dir():
        yield from _from_folder(folder / "train", use_captions)
        return
    if missing := sorted(name for name in names - there if not os.path.isfile(folder / name)):
        log.warning("%s: its table names pictures that are not there, so left out: %s", folder, _some(missing))
        names -= set(missing)
    check_deeper(folder, named=names)
    for text, name in prompts.near_sidecars(folder, names) if use_captions else ():
        log.warning("%s: %s is not read: the caption of %s is %s", folder, text, name, Path(name).with_suffix(".txt"))
    for name in sorted(names):
        sidecar = prompts.read_sidecar(folder / name) if use_captions else None
        own = table.get(name, picture_table.Entry(caption=None))
        yield Found(name, folder / name, own.caption or sidecar, own.weight)


def check_deeper(folder: Path, *, named: Collection[str]) -> None:
    """See to pictures in the folders of a folder, which are not read: ``reg/1_dog/a.png``.

    Args:
        folder: to look into, one level deep.
        named: pictures that are read, relative to the folder.

    Raises:
        InputError: there are some, and none is read. Otherwise they get a line.
    """
    inner = {
        path.name: len(here)
        for path in sorted(folder.iterdir())
        if path.is_dir() and not COMPANY.fullmatch(path.name)
        if (here := [name for name in _picture_files(path) if f"{path.name}/{name}" not in named])
    }
    masks = [f"{name} ({inner.pop(name)} pictures)" for name in MASKS if name in inner]  # of its own pictures
    places = _some([f"{name} ({count} pictures)" for name, count in inner.items()])
    if masks and not inner and not named:
        raise InputError(f"{folder} holds masks alone, in {_some(masks)}: put the pictures that they are of beside it")
    if inner and not named:
        raise InputError(f"{folder}: the pictures are one folder deeper, in {places}: name the folder that holds them")
    if inner:
        log.warning("%s: pictures in its folders are left out: %s", folder, places)


def _picture_files(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir() if is_picture(path)]
    except OSError:  # a folder that must not be read
        return []


def is_picture(path: Path) -> bool:
    """Whether a path is a file that means to be a picture."""
    return bool(PICTURE.fullmatch(path.name)) and not COMPANY.fullmatch(path.name) and path.is_file()


def _pictures(folder: Path) -> set[str]:
    """Names of the files that mean to be pictures. Whatever is neither that nor usual company gets a line."""
    files = {path.name for path in folder.iterdir() if path.is_file() and not COMPANY.fullmatch(path.name)}
    pictures = {name for name in files if PICTURE.fullmatch(name)}
    if strange := sorted(files - pictures):
        log.warning("%s: not pictures, so left out: %s", folder, _some(strange))
    return pictures
