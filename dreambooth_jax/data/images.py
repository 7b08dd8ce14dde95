# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""From the bytes of any photo to upright RGB pictures of one size.

    bytes --decode--> upright RGB picture --crop_resize(view)--> uint8 [h, w, 3] --to_float--> float32 in [-1, 1]

A view is a rectangle of the photo with the aspect that is wanted: its sides as a share of the largest such
rectangle's, its place as shares of the room that is left, mirrored or not. A photo has a short, fixed list of views, so
that their latents can be computed once. Cropping and resizing is one call that resamples straight from the rectangle,
with Lanczos-3: photos are nearly always reduced several times, Pillow widens the kernel by that factor (no aliasing),
and of its kernels this one keeps the most detail.
"""

import hashlib
import warnings
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import ExifTags, Image, ImageCms, ImageColor, ImageEnhance, ImageOps, UnidentifiedImageError

from dreambooth_jax.data import host_rng
from dreambooth_jax.data.png import without_text
from dreambooth_jax.errors import InputError
from dreambooth_jax.size import Size

# What people keep photos in. Pillow opens more, some by starting other programs (EPS), some by trial (TGA).
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM")
# White in modes of more than eight bits: the first that no pixel exceeds, else the brightest pixel.
FULL_SCALE = {"I": (65535.0,), "F": (1.0, 255.0, 65535.0)}
# What turns a picture of that EXIF orientation upright; 1 is upright.
UPRIGHT: dict[Any, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
RANDOM_VIEWS = 4
# Random views have at least this share of the largest one's sides: 72 % of its area.
MIN_SIDE = 0.85


@dataclass(frozen=True, kw_only=True)
class View:
    """A rectangle of a photo. By default the largest one, in the middle."""

    side: float = 1.0
    """Share of the largest rectangle's sides, in (0, 1]."""
    x: float = 0.5
    """Place between the left (0) and the right end (1)."""
    y: float = 0.5
    """Place between the upper (0) and the lower end (1)."""
    flip: bool = False
    """Mirrored, left for right."""
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factors of brightness, contrast and saturation."""


CENTER = View()


def content_hash(data: bytes) -> str:
    """What a picture is known by in caches: the SHA-256 of its file, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def views(
    crop: Literal["center", "random"], *, flip: bool, digest: str, seed: int, colour: float = 0.0
) -> tuple[View, ...]:
    """The fixed list of views of the photo whose :func:`content_hash` is ``digest``.

    One for ``center``; for ``random`` four that depend on the photo and the seed alone. With ``colour``, there are four
    of both, and all but the first have brightness, contrast and saturation of their own, each a factor from 1 - colour
    to 1 + colour. With ``flip``, the same again mirrored.
    """
    rectangles = [CENTER]
    if crop == "random":
        shares = host_rng.uniform(3 * RANDOM_VIEWS, seed, "views", digest).reshape(RANDOM_VIEWS, 3).tolist()
        rectangles = [View(side=MIN_SIDE + (1 - MIN_SIDE) * s, x=x, y=y) for s, x, y in shares]
    if colour:
        rectangles = rectangles if crop == "random" else RANDOM_VIEWS * rectangles
        draws = host_rng.uniform(3 * RANDOM_VIEWS, seed, "colours", digest).reshape(RANDOM_VIEWS, 3)
        factors = (1 + colour * (2 * draws - 1)).tolist()
        rectangles[1:] = [replace(view, colour=(b, c, s)) for view, (b, c, s) in zip(rectangles[1:], factors[1:])]
    mirrored = [replace(view, flip=True) for view in rectangles] if flip else []
    return (*rectangles, *mirrored)


def crop_resize(
    image: Image.Image, *, size: Size, view: View = CENTER
) -> UInt8[np.ndarray, "{size.height} {size.width} 3"]:
    """The view of an RGB picture in so many pixels, antialiased, aspect preserved."""
    part = Image.fromarray(cut(image, size=size, view=replace(view, flip=False)))
    for change, factor in zip((ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), view.colour):
        part = part if factor == 1 else change(part).enhance(factor)
    return np.asarray(ImageOps.mirror(part) if view.flip else part)


def cut(
    image: Image.Image, *, size: Size, view: View, kernel: Image.Resampling = Image.Resampling.LANCZOS
) -> UInt8[np.ndarray, "{size.height} {size.width} *c"]:
    """The rectangle of a view in so many pixels, mirrored where the view is; colours are as they are."""
    left, top, width, height = rectangle(Size(image.height, image.width), size=size, view=view)
    # Rounding may put the far edges a hair outside, which Pillow refuses.
    box = (left, top, min(left + width, image.width), min(top + height, image.height))
    part = image.resize((size.width, size.height), kernel, box=box)
    return np.asarray(ImageOps.mirror(part) if view.flip else part)


def rectangle(photo: Size, *, size: Size, view: View) -> tuple[float, float, float, float]:
    """(left, top, width, height) of a view in pixels of the photo, of which ``size`` gives the aspect."""
    width = view.side * min(photo.width, photo.height * size.width / size.height)
    height = view.side * min(photo.height, photo.width * size.height / size.width)
    return view.x * (photo.width - width), view.y * (photo.height - height), width, height


def told_sizes(photo: Size, *, size: Size, view: View) -> tuple[int, ...]:
    """What a model is told that knows of sizes (arXiv 2307.01952, § 2.2), in the order of ``Condition.sizes``: height
    and width of the photo; top and left of the view's rectangle in pixels of the view; height and width of the view. Of
    a mirrored view the left is the mirrored photo's."""
    left, top, width, height = rectangle(photo, size=size, view=view)
    left = photo.width - width - left if view.flip else left
    return *photo, round(top * size.height / height), round(left * size.width / width), *size


def full_size(source: bytes | str | Path) -> Size:
    """Height and width of an upright picture that :func:`decode` opens, which may give a smaller one."""
    with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
        turned = _orientation(image) in (5, 6, 7, 8)
        return Size(*(image.size if turned else image.size[::-1]))


def to_float(images: UInt8[np.ndarray, "*b h w 3"]) -> Float32[np.ndarray, "*b h w 3"]:
    """0 .. 255 to -1 .. 1."""
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def decode(
    source: bytes | str | Path,
    *,
    background: str = "white",
    at_least: int | None = None,
    name: str | None = None,
    keep_alpha: bool = False,
) -> Image.Image:
    """Any photo as an upright 8-bit sRGB picture.

    Rotation is undone as EXIF asks, transparent pixels lie on ``background``, more than eight bits are scaled, an
    embedded colour profile is applied, and of several frames the first is taken. With ``at_least``, a JPEG whose sides
    are many times that is decoded at 1/2, 1/4 or 1/8 of its size, so that no side falls below twice that number.
    ``name`` is what errors call a picture given as bytes. With ``keep_alpha`` the picture is RGBA, on no background.

    Raises:
        InputError: the file is missing, damaged, of another kind, or has more pixels than Pillow considers safe;
            or the background is no colour.
    """
    ground = colour(background)
    name = name or ("picture" if isinstance(source, bytes) else str(source))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, on sizes below its limit and on odd metadata
            data = source if isinstance(source, bytes) else Path(source).read_bytes()
            return _open(without_text(data), None if keep_alpha else ground, at_least)
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except Image.DecompressionBombError:
        raise InputError(
            f"{name}: more than {2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} megapixels; reduce it first"
        ) from None
    except UnidentifiedImageError:
        raise InputError(
            f"{name}: not a picture of a known kind ({', '.join(FORMATS)}); convert it to JPEG or PNG"
        ) from None
    except Exception as error:  # decoders raise whatever they stumble over
        raise InputError(f"{name}: damaged picture ({error or type(error).__name__}); replace or remove it") from error


def colour(name: str) -> tuple[int, int, int]:
    """The red, green and blue of a colour's name or #rrggbb. Raises InputError if it is none."""
    try:
        red, green, blue, *_ = ImageColor.getrgb(name)
    except ValueError:
        raise InputError(f"background {name!r} is no colour: write a name such as white, or #rrggbb") from None
    return red, green, blue


def _open(data: bytes, ground: tuple[int, int, int] | None, at_least: int | None) -> Image.Image:
    Image.init()
    with Image.open(BytesIO(data), formats=[kind for kind in FORMATS if kind in Image.OPEN]) as image:
        if at_least is not None:
            image.draft(None, (2 * at_least, 2 * at_least))
        image.load()
        method = UPRIGHT.get(_orientation(image))
        upright = image if method is None else image.transpose(method)
    rgb = _to_srgb(_eight_bits(upright))
    return rgb.convert("RGBA") if ground is None else _flatten(rgb, ground)


def upright_rgb(image: Image.Image, *, keep_alpha: bool = False) -> Image.Image:
    """An opened picture as :func:`decode` gives those of files: 8-bit sRGB, upright, on white, or RGBA."""
    method = UPRIGHT.get(_orientation(image))
    rgb = _to_srgb(_eight_bits(image if method is None else image.transpose(method)))
    return rgb.convert("RGBA") if keep_alpha else _flatten(rgb, colour("white"))


def _orientation(image: Image.Image) -> Any:
    """What EXIF or XMP says. Nothing is written back, as Pillow's ``exif_transpose`` does: it fails for sound photos
    with other tags that cannot be written."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # parsers raise whatever they stumble over; then it says nothing
        return None


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scaled, where Pillow's own conversion would clip at 255."""
    if image.mode not in FULL_SCALE and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image, np.float64)
    if not np.isfinite(values).any():
        raise ValueError("no pixel of it is a number")
    values = np.nan_to_num(values, posinf=0, neginf=0)
    brightest = values.max()
    white = next((top for top in FULL_SCALE.get(image.mode, (65535.0,)) if brightest <= top), brightest)
    return Image.fromarray(np.rint(values.clip(min=0) * (255 / white)).astype(np.uint8))


def _to_srgb(image: Image.Image) -> Image.Image:
    """RGB or RGBA, by the embedded colour profile (prints in CMYK, phones with wide gamut) where it has a sound one."""
    target = "RGBA" if image.has_transparency_data else "RGB"
    if image.mode not in ("CMYK", target):
        image = image.convert(target)
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(image.info["icc_profile"]))
        return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), image.mode, target).apply(image)
    except (KeyError, ImageCms.PyCMSError, ImportError, OSError, ValueError):
        return image.convert(target)


def _flatten(image: Image.Image, ground: tuple[int, int, int]) -> Image.Image:
    """Whatever is transparent lies on the ground."""
    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, (*ground, 255)), image).convert("RGB")
