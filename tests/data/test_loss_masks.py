# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Masks as weights of the loss: where they lie, what they are at each latent, and what they do to the loss."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

from dreambooth_jax.config import load_config
from dreambooth_jax.config.concepts import concepts_of
from dreambooth_jax.data import images
from dreambooth_jax.data.loss_masks import latent_mask, mask_of
from dreambooth_jax.data.mixture import Mixture
from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.data.sources import load_images
from dreambooth_jax.data.streams import Stream
from dreambooth_jax.diffusion.loss import example_errors
from dreambooth_jax.errors import InputError
from dreambooth_jax.prepare.photos import digest, read_instance_photos
from dreambooth_jax.size import Size
from tests.data.pictures import noise
from tests.data.test_mixture import table

SIZE, FACTOR = Size(16, 16), 4
SEEN = {"size": SIZE, "crop": "center", "flip": True, "seed": 0, "colour": 0.0, "factor": FACTOR}


def load(folder, masks):
    return load_images(folder, prompt="x", subject=Subject(identifier="a", class_noun="b"), size=SIZE, masks=masks)


def half(width=32, height=32):
    """White on the left."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = 255
    return Image.fromarray(mask)


@pytest.mark.parametrize(
    "place", ["a-mask.png", "a.mask.png", "a_mask.PNG", "a-masklabel.png", "masks/a.png", "mask/a.jpg"]
)
def test_masks_lie_beside_their_photos_or_in_a_folder(tmp_path, place):
    noise(1, 32, 32).save(tmp_path / "a.png")
    noise(2, 32, 32).save(tmp_path / "b-mask-work.png")
    (tmp_path / place).parent.mkdir(exist_ok=True)
    half().convert("RGB").save(tmp_path / place)
    assert mask_of(tmp_path / "a.png") == tmp_path / place
    first, second = load(tmp_path, "files")
    assert [first.name, second.name] == ["a.png", "b-mask-work.png"]
    expected = np.zeros((4, 4))
    expected[:, :2] = 1
    np.testing.assert_allclose(first.latent_masks(**SEEN), [expected, expected[:, ::-1]], atol=0.02)
    np.testing.assert_array_equal(second.latent_masks(**SEEN), np.ones((2, 4, 4)))


def test_opacity_is_a_mask_and_all_counts_where_a_photo_has_none(tmp_path):
    picture = noise(1, 32, 32).convert("RGBA")
    picture.putalpha(half())
    picture.save(tmp_path / "a.png")
    noise(2, 32, 32).save(tmp_path / "b.jpg")
    clear, opaque = load(tmp_path, "alpha")
    assert clear.latent_masks(**SEEN)[0].mean() == pytest.approx(0.5, abs=0.02)
    np.testing.assert_array_equal(opaque.latent_masks(**SEEN), np.ones((2, 4, 4)))


def test_a_latent_has_the_share_of_its_pixels():
    """Of a mask as large as the training image, whatever it is: the mean of each tile."""
    mask = np.random.default_rng(0).integers(0, 256, (16, 16)).astype(np.uint8)
    found = latent_mask(Image.fromarray(mask), size=SIZE, view=images.CENTER, factor=FACTOR)
    tiles = mask.reshape(4, 4, 4, 4).astype(float).mean((1, 3)) / 255
    np.testing.assert_allclose(found, tiles, rtol=1e-6)


def test_a_mask_is_cut_and_mirrored_with_its_view():
    """A photo that is its own mask: what is seen of one is seen of the other."""
    photo = ImageOps.autocontrast(noise(3, 60, 40).convert("L").resize((12, 8)).resize((60, 40)))
    for view in images.views("random", flip=True, digest="ab", seed=1, colour=0.2):
        seen = images.crop_resize(photo.convert("RGB"), size=SIZE, view=replace(view, colour=(1.0, 1.0, 1.0)))
        found = latent_mask(photo, size=SIZE, view=view, factor=FACTOR)
        tiles = seen[..., 0].reshape(4, 4, 4, 4).astype(float).mean((1, 3)) / 255
        np.testing.assert_allclose(found, tiles, atol=0.06)
        assert np.abs(found[:, ::-1] - tiles).mean() > 3 * np.abs(found - tiles).mean()


@pytest.mark.parametrize("masks", ["none", "alpha"])
def test_masks_are_no_photos_where_they_are_not_asked_for_either(tmp_path, caplog, masks):
    noise(1, 32, 32).save(tmp_path / "a.png")
    noise(2, 32, 32).save(tmp_path / "b-mask.png")  # of no photo
    half().save(tmp_path / "a-mask.png")
    assert [photo.name for photo in load(tmp_path, masks)] == ["a.png", "b-mask.png"]
    (record,) = caplog.records
    assert record.getMessage() == f"{tmp_path}: masks, so left out: a-mask.png; data.masks=files weighs photos by them"


@pytest.mark.parametrize("masks", ["none", "files"])
def test_a_folder_of_masks_is_that_of_its_pictures_and_needs_no_line(tmp_path, caplog, masks):
    (tmp_path / "masks").mkdir()
    half().save(tmp_path / "masks" / "a.png")
    with pytest.raises(
        InputError, match=r"holds masks alone, in masks \(1 pictures\): put the pictures that they are of"
    ):
        load(tmp_path, masks)
    noise(1, 32, 32).save(tmp_path / "a.png")
    assert [photo.name for photo in load(tmp_path, masks)] == ["a.png"]
    assert not caplog.records


def test_masks_of_pictures_that_are_not_there_get_a_line(tmp_path, caplog):
    """A photo of a mask may be called so, too: they are taken for photos."""
    for name in ("a-mask.png", "b_mask.png"):
        half().save(tmp_path / name)
    assert len(load(tmp_path, "files")) == 2
    assert "all its pictures are called as masks are, of pictures that are not there: a-mask.png, b_mask" in caplog.text


def read(folder, *settings):
    config = load_config(None, [f"data.instance_images={folder}", "data.class_noun=dog", *settings])
    return read_instance_photos(*concepts_of(config), config.data)


def test_opacity_that_is_asked_for_and_not_there_gets_a_line(tmp_path, caplog):
    noise(1, 600, 600).save(tmp_path / "a.png")
    noise(2, 600, 600).convert("RGBA").save(tmp_path / "b.png")
    read(tmp_path, "data.masks=alpha")
    assert f"{tmp_path}: no photo is transparent anywhere, so all count everywhere" in caplog.text
    caplog.clear()
    picture = noise(2, 600, 600).convert("RGBA")
    picture.putalpha(half(600, 600))
    picture.save(tmp_path / "b.png")
    read(tmp_path, "data.masks=alpha")
    assert not caplog.records


@pytest.mark.parametrize(("masks", "what"), [("files", "has a mask that is black"), ("alpha", "is transparent")])
def test_a_photo_of_which_nothing_counts_is_refused(tmp_path, masks, what):
    nothing = Image.new("L", (600, 600), 0)
    picture = noise(1, 600, 600).convert("RGBA")
    picture.putalpha(nothing)
    picture.save(tmp_path / "a.png")
    nothing.save(tmp_path / "a-mask.png")
    with pytest.raises(InputError, match=rf"{tmp_path}: a.png {what} all over, so with data.unmasked_weight=0"):
        read(tmp_path, f"data.masks={masks}", "data.unmasked_weight=0")
    assert len(read(tmp_path, f"data.masks={masks}")) == 1


def test_a_mask_that_cannot_be_is_named(tmp_path):
    noise(1, 32, 32).save(tmp_path / "a.png")
    half(32, 16).save(tmp_path / "a-mask.png")
    with pytest.raises(InputError, match=r"a-mask.png: 32x16 is not the shape of its photo, 32x32"):
        load(tmp_path, "files")
    (tmp_path / "a-mask.png").write_bytes(b"x")
    with pytest.raises(InputError, match=f"^{tmp_path}/a-mask.png: not a picture"):
        load(tmp_path, "files")


def test_another_mask_is_another_run_and_none_a_warning(tmp_path, caplog):
    noise(1, 600, 600).save(tmp_path / "a.png")
    config = load_config(None, [f"data.instance_images={tmp_path}", "data.class_noun=dog", "data.masks=files"])
    digests = [digest(read_instance_photos(*concepts_of(config), config.data))]
    assert "no photo has a mask beside it" in caplog.text
    for mask in (half(30, 30), half(60, 60).rotate(90)):
        mask.save(tmp_path / "a-mask.png")
        digests.append(digest(read_instance_photos(*concepts_of(config), config.data)))
    assert len(set(digests)) == 3


def test_weights_of_positions_multiply_errors():
    r = np.random.default_rng(0)
    prediction, target = r.normal(size=(2, 3, 2, 4, 4, 5))
    weight = r.uniform(size=(3, 2, 4, 4))
    found = example_errors(jnp.asarray(prediction), jnp.asarray(target), position_weight=jnp.asarray(weight))
    expected = ((prediction - target) ** 2 * weight[..., None]).mean((1, 2, 3, 4))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    ones = example_errors(jnp.asarray(prediction), jnp.asarray(target), position_weight=jnp.ones_like(weight))
    np.testing.assert_array_equal(ones, example_errors(jnp.asarray(prediction), jnp.asarray(target)))


def test_what_lies_outside_a_mask_of_no_weight_does_not_matter():
    r = np.random.default_rng(0)
    prediction, target = r.normal(size=(2, 1, 4, 4, 3))
    weight = np.zeros((1, 4, 4))
    weight[:, :2] = 1
    other = prediction.copy()
    other[:, 2:] += 100
    errors = [
        example_errors(jnp.asarray(p), jnp.asarray(target), position_weight=jnp.asarray(weight))
        for p in (prediction, other)
    ]
    np.testing.assert_array_equal(*errors)


def test_each_row_brings_the_weights_of_its_picture_and_view():
    plain = table(3, 2)
    weights = plain.mean[..., 0] + 7
    batch = Mixture(streams=[Stream(name="instance", table=replace(plain, weights=weights), rows=4)]).batch_at(2)
    np.testing.assert_array_equal(batch["position_weight"], batch["mean"][..., 0] + 7)
    assert "position_weight" not in Mixture(streams=[Stream(name="instance", table=plain, rows=4)]).batch_at(2)
