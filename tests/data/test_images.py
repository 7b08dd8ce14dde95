# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Whatever the file, the picture is upright, RGB and of the right colours, or one line says which file is wrong."""

import struct
import warnings
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from dreambooth_jax.data import images
from dreambooth_jax.data.png import without_text
from dreambooth_jax.errors import InputError
from dreambooth_jax.size import Size
from tests.data.pictures import array, noise, quadrants, to_bytes

BACKGROUND = (10, 200, 30)
RAMP16 = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)

# How a camera that is held so stores an upright scene: the inverse of what the EXIF orientation asks to be done.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [("PNG", {}, 0), ("WEBP", {"lossless": True}, 0), ("TIFF", {}, 0), ("JPEG", {"quality": 100, "subsampling": 0}, 3)],
)
def test_every_exif_orientation_is_undone(orientation, kind, options, tolerance):
    scene = quadrants()
    stored = scene if STORED[orientation] is None else scene.transpose(STORED[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = images.decode(to_bytes(stored, kind, exif=exif, **options))
    assert seen.mode == "RGB"
    assert seen.size == scene.size
    assert np.abs(array(seen) - array(scene)).max() <= tolerance


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08\0\x01\x01\x12"]))
def test_broken_exif_costs_no_picture(junk, header):
    data = to_bytes(quadrants(), "JPEG", exif=b"Exif\0\0" + header + junk)
    assert sorted(images.decode(data).size) == [32, 64]


PHOTOS = Path(__file__).parents[1] / "fixtures" / "photos"


@pytest.mark.parametrize("name", ["exif_ok_rot6", "exif_rot6_signed_short", "exif_rot6_two_xres"])
@pytest.mark.parametrize("at_least", [None, 16])
def test_photos_whose_exif_cannot_be_written_back_are_turned(name, at_least):
    """The first can be; of the others a tag has a type or a length that Pillow writes not."""
    data = (PHOTOS / f"{name}.jpg").read_bytes()
    with warnings.catch_warnings(action="ignore"), Image.open(BytesIO(data)) as stored:
        turned = array(stored.convert("RGB").transpose(Image.Transpose.ROTATE_270))
    seen = images.decode(data, at_least=at_least)
    assert seen.height > seen.width
    if at_least is None:
        np.testing.assert_array_equal(array(seen), turned)


def test_a_png_with_a_whole_workflow_in_it_is_a_picture():
    file = PHOTOS / "comfy_workflow.png"
    with pytest.raises(ValueError, match="too large"), Image.open(file) as refused:
        refused.load()
    assert min(images.decode(file).size) > 1
    np.testing.assert_array_equal(array(images.decode(file)), array(images.decode(file.read_bytes())))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("international", [False, True])
def test_no_text_in_a_png_costs_the_picture_or_its_rotation(compressed, international):
    info = PngInfo()
    add = info.add_itxt if international else info.add_text
    add("workflow", "x" * 2_000_000, zip=compressed)
    xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    xmp += '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    info.add_itxt("XML:com.adobe.xmp", xmp)
    stored = quadrants().transpose(STORED[6])
    np.testing.assert_array_equal(array(images.decode(to_bytes(stored, "PNG", pnginfo=info))), array(quadrants()))


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=40), st.integers(0, 60))
def test_taking_text_out_of_anything_changes_no_sound_picture(junk, cut):
    whole = to_bytes(noise(1), "PNG")
    assert without_text(whole) == whole
    for data in (whole[: len(whole) - cut] + junk, whole[:8] + junk, junk):
        assert len(without_text(data)) <= len(data)


def _half_transparent(kind: str) -> bytes:
    """Left half transparent, right half opaque grey 120, in one of the many ways to say so."""
    grey = Image.new("L", (8, 4), 120)
    mask = Image.new("L", (8, 4), 0)
    mask.paste(255, (4, 0, 8, 4))
    indices = mask.point(lambda v: v // 255)  # 0 on the left, 1 on the right
    rgba = Image.merge("RGBA", (grey, grey, grey, mask))
    paletted = Image.frombytes("P", (8, 4), indices.tobytes())
    paletted.putpalette([0, 0, 255, 120, 120, 120])
    match kind:
        case "LA":
            return to_bytes(Image.merge("LA", (grey, mask)), "PNG")
        case "PA":
            pa = Image.merge("PA", (grey, mask))
            pa.putpalette([v for v in range(256) for _ in range(3)])
            return to_bytes(pa, "TIFF")
        case "palette, one index":
            return to_bytes(paletted, "PNG", transparency=0)
        case "palette, alpha table":
            return to_bytes(paletted, "PNG", transparency=bytes([0, 255]))
        case "grey, one level":
            return to_bytes(indices.point(lambda v: 120 * v), "PNG", transparency=0)
        case "RGB, one colour":
            return to_bytes(indices.point(lambda v: 120 * v).convert("RGB"), "PNG", transparency=(0, 0, 0))
        case "GIF":
            return to_bytes(paletted, "GIF", transparency=0)
        case _:
            return to_bytes(rgba, kind, **({"lossless": True} if kind == "WEBP" else {}))


TRANSPARENT = ["PNG", "WEBP", "TIFF", "LA", "PA", "palette, one index", "palette, alpha table", "grey, one level"]


@pytest.mark.parametrize("kind", [*TRANSPARENT, "RGB, one colour", "GIF"])
def test_transparent_pixels_lie_on_the_background(kind):
    seen = array(images.decode(_half_transparent(kind), background="rgb(10, 200, 30)"))
    assert seen.shape == (4, 8, 3)
    assert (seen[:, :4] == BACKGROUND).all()
    assert (seen[:, 4:] == 120).all()


def test_half_transparent_pixels_are_mixed():
    seen = array(images.decode(to_bytes(Image.new("RGBA", (2, 2), (200, 0, 100, 128)), "PNG")))
    assert np.abs(seen - (128 * np.array([200, 0, 100]) + 127 * 255) / 255).max() <= 1


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (quadrants().quantize(4), "PNG"),
        (quadrants().quantize(4), "GIF"),
        (quadrants(), "BMP"),
        (quadrants(), "PPM"),
        (quadrants().convert("CMYK"), "TIFF"),
    ],
)
def test_palettes_and_inks_keep_their_colours(image, kind):
    np.testing.assert_array_equal(array(images.decode(to_bytes(image, kind))), array(quadrants()))


def test_cmyk_jpeg_keeps_its_colours():
    seen = images.decode(to_bytes(quadrants().convert("CMYK"), "JPEG", quality=100, subsampling=0))
    assert np.abs(array(seen) - array(quadrants())).max() <= 4


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_becomes_three_equal_channels(mode):
    image = quadrants().convert(mode)
    np.testing.assert_array_equal(array(images.decode(to_bytes(image, "PNG"))), array(image.convert("RGB")))


def _png16(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits per channel, which Pillow reads but cannot write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data",
    [
        to_bytes(Image.fromarray(RAMP16), "PNG"),
        to_bytes(Image.fromarray(RAMP16), "TIFF"),
        to_bytes(Image.frombytes("I;16B", (64, 64), RAMP16.astype(">u2").tobytes()), "TIFF"),
        to_bytes(Image.fromarray(RAMP16), "PPM"),
        to_bytes(Image.fromarray(RAMP16.astype(np.int32)), "TIFF"),
        to_bytes(Image.fromarray(RAMP16.astype(np.float32)), "TIFF"),
        to_bytes(Image.fromarray(RAMP16.astype(np.float32) / 65535), "TIFF"),
        _png16(RAMP16[..., None]),
        _png16(np.repeat(RAMP16[..., None], 3, -1)),
    ],
    ids=["I;16 PNG", "I;16 TIFF", "I;16B TIFF", "PGM", "I TIFF", "F TIFF", "F to 1 TIFF", "grey PNG", "RGB PNG"],
)
def test_more_than_eight_bits_are_scaled_not_clipped(data):
    expected = RAMP16[..., None] / 257.0
    assert np.abs(array(images.decode(data)) - expected).max() <= 1  # Pillow itself cuts 16-bit RGB to its high bytes


def test_values_beyond_any_full_scale_are_stretched():
    pixels = np.array([[-5.0, 0.0, 1e6, np.nan]], np.float32)
    seen = array(images.decode(to_bytes(Image.fromarray(pixels), "TIFF")))
    np.testing.assert_array_equal(seen[0, :, 0], [0, 0, 255, 0])


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_of_several_frames_is_taken(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    frames = [Image.new("RGB", (16, 16), name) for name in ("red", "blue")]
    seen = images.decode(to_bytes(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert (array(seen) == (255, 0, 0)).all()


def _swapped_profile() -> bytes:
    """sRGB with the primaries of red and green exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">I", profile, 128)
    entries = {bytes(profile[o : o + 4]): o for o in range(132, 132 + 12 * count, 12)}
    red, green = entries[b"rXYZ"], entries[b"gXYZ"]
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_the_embedded_colour_profile_is_applied(mode):
    image = Image.new("RGB", (4, 4), (204, 102, 51)).convert(mode)
    seen = array(images.decode(to_bytes(image, "PNG", icc_profile=_swapped_profile())))
    assert np.abs(seen - (102, 204, 51)).max() <= 1


@pytest.mark.parametrize("profile", [b"no profile", _swapped_profile()[:200]])
@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_an_unsound_profile_is_ignored(profile, mode):
    data = to_bytes(quadrants().convert(mode), "TIFF", icc_profile=profile)
    np.testing.assert_array_equal(array(images.decode(data)), array(quadrants()))


def test_a_single_pixel_fills_the_square():
    image = images.decode(to_bytes(Image.new("RGB", (1, 1), (3, 141, 59)), "PNG"))
    square = images.crop_resize(image, size=Size(64, 64))
    assert square.shape == (64, 64, 3)
    assert (square == (3, 141, 59)).all()


def test_a_huge_jpeg_is_decoded_at_a_fraction():
    data = to_bytes(Image.new("L", (8000, 8000), 90), "JPEG")
    image = images.decode(data, at_least=512)
    assert image.size == (2000, 2000)
    assert (images.crop_resize(image, size=Size(512, 512)) == 90).all()


def test_a_fraction_is_never_below_twice_the_asked_size():
    data = to_bytes(noise(0, 320, 200), "JPEG")
    assert images.decode(data, at_least=51).size == (320, 200)
    assert images.decode(data, at_least=50).size == (160, 100)


def test_a_picture_of_8000_x_8000_pixels_is_read():
    assert images.decode(to_bytes(Image.new("1", (8000, 8000), 1), "PNG")).size == (8000, 8000)


def _claims(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels."""
    data = bytearray(to_bytes(Image.new("L", (1, 1)), "PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "not a picture of a known kind"),
        (b"just some text", "not a picture of a known kind"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture of a known kind"),
        (to_bytes(noise(0), "JPEG")[:-300], "damaged"),
        (to_bytes(noise(0), "PNG")[:-300], "damaged"),
        (to_bytes(noise(0), "WEBP")[:-300], "damaged|not a picture"),
        (to_bytes(noise(0), "TIFF")[:-300], "damaged|not a picture"),
        (_claims(20000, 20000), "179 megapixels; reduce"),
    ],
    ids=["empty", "text", "postscript", "JPEG", "PNG", "WEBP", "TIFF", "bomb"],
)
def test_a_file_that_is_no_sound_picture_is_named(tmp_path, data, complaint):
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"photo\.jpg: .*({complaint})") as caught:
        images.decode(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_an_unknown_colour_are_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.png: no such file"):
        images.decode(tmp_path / "gone.png")
    with pytest.raises(InputError, match=r"'whit' is no colour"):
        images.decode(to_bytes(quadrants(), "PNG"), background="whit")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"]), st.data())
def test_damage_gives_a_picture_or_one_kind_of_error(kind, draw):
    data = bytearray(to_bytes(noise(1, 12, 12), kind))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    with suppress(InputError):
        assert images.decode(bytes(data)).mode == "RGB"


def test_decoding_leaves_the_warning_filters_alone():
    before = list(warnings.filters)
    images.decode(to_bytes(quadrants(), "PNG"))
    assert list(warnings.filters) == before


def test_content_hash_is_of_the_bytes():
    first, second = (to_bytes(noise(seed), "PNG") for seed in (0, 1))
    assert images.content_hash(first) == images.content_hash(BytesIO(first).read())
    assert images.content_hash(first) != images.content_hash(second)


def test_a_picture_without_a_number_in_it_is_damaged():
    nothing = to_bytes(Image.fromarray(np.full((4, 5), np.nan, np.float32)), "TIFF")
    with pytest.raises(InputError, match="damaged picture .no pixel of it is a number"):
        images.decode(nothing)
