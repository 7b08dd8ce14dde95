# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dreambooth_jax.config import load_config
from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.data.sources import load_images
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline import load_pretrained
from dreambooth_jax.prepare import cache
from dreambooth_jax.prepare.cache import Views, cache_key, latent_moments, text_table
from dreambooth_jax.size import Size
from tests import runs
from tests.prepare.fake import FakePipeline

VIEWS = Views(size=Size(16, 16), crop="random", flip=True, seed=3)


@pytest.fixture
def photos(tmp_path):
    subject = Subject(identifier="sks", class_noun="dog")
    return load_images(
        runs.draw_photos(tmp_path / "photos"), prompt="a {identifier}", subject=subject, size=Size(16, 16)
    )


def moments(pipe, photos, tmp_path, views=VIEWS, model="m", **options):
    return latent_moments(pipe, photos, views, folder=tmp_path / "cache", model=model, **options)


def test_moments_of_every_view_are_in_their_place(photos, tmp_path):
    pipe = FakePipeline()
    mean, logvar = moments(pipe, photos, tmp_path, batch_size=3)
    assert mean.shape == logvar.shape == (5, 8, 2, 2, 3)
    for i, photo in enumerate(photos):
        views = photo.views(size=Size(16, 16), crop="random", flip=True, seed=3)
        np.testing.assert_allclose(mean[i], views[:, ::8, ::8] / 127.5 - 1, atol=1e-6)
    assert pipe.encoded == 42, "40 views in batches of 3, the last one filled up"


def test_what_was_encoded_is_not_encoded_again(photos, tmp_path):
    first = moments(FakePipeline(), photos, tmp_path)
    pipe = FakePipeline()
    again = moments(pipe, photos, tmp_path)
    assert pipe.encoded == 0
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)


def test_what_was_encoded_in_another_dtype_is_encoded_again(photos, tmp_path):
    moments(FakePipeline(), photos, tmp_path, dtype="bfloat16")
    pipe = FakePipeline()
    moments(pipe, photos, tmp_path, dtype="float32")
    assert pipe.encoded > 0


def test_a_torn_cache_file_is_made_anew(photos, tmp_path):
    moments(FakePipeline(), photos, tmp_path)
    (path,) = (tmp_path / "cache").glob("*.npz")
    path.write_bytes(path.read_bytes()[:100])
    pipe = FakePipeline()
    moments(pipe, photos, tmp_path)
    assert pipe.encoded > 0


def test_the_key_changes_with_all_that_moments_depend_on(photos):
    keys = {
        cache_key(photos, VIEWS, "m"),
        cache_key(photos[:4], VIEWS, "m"),
        cache_key(photos, VIEWS, "other"),
        cache_key(photos, VIEWS, "m", "bfloat16"),
        *(
            cache_key(photos, dataclasses.replace(VIEWS, **change), "m")
            for change in (
                {"size": Size(24, 24)},
                {"size": Size(16, 24)},
                {"crop": "center"},
                {"flip": False},
                {"seed": 4},
            )
        ),
        cache_key([dataclasses.replace(photo, background="black") for photo in photos], VIEWS, "m"),
    }
    assert len(keys) == 10


def test_with_buckets_photos_have_the_nearest_shape_and_class_images_that_of_the_run(photos, monkeypatch):
    """Also real ones of other shapes: the middle is seen, so that each shape of photos has one program, not several."""
    seen = []
    blank = np.zeros((1, 1, 2, 2, 4), np.float32)
    monkeypatch.setattr(cache, "latent_moments", lambda pipe, some, views, **of: seen.append(views) or (blank, blank))
    monkeypatch.setattr(cache, "encoded_at_once", lambda target: 1)
    pipe = FakePipeline()
    plain = SimpleNamespace(encoding_dtype="float32", config=SimpleNamespace(takes_sizes=False))
    modules = {"vae": plain, "unet": plain}
    pipe.__dict__.update(components=SimpleNamespace(fingerprint="m", modules=modules), target=None)
    overrides = ("data.resolution=512", "data.buckets=3", "data.crop=random", "data.flip=true")
    data = load_config(None, list(overrides)).data
    shapes = (Size(512, 512), Size(300, 900), Size(900, 300), Size(400, 700))
    several = [dataclasses.replace(photos[0], shape=shape) for shape in shapes]
    encoder = cache.Encoder(pipe=pipe, data=data, seed=0, cache=Path())
    assert [len(some.photos) for some in encoder.instance(several)] == [1, 1, 2]
    assert [(views.size.width > views.size.height) - (views.size.width < views.size.height) for views in seen] == [
        *(-1, 0, 1)
    ]
    assert len(encoder.prior(several).photos) == 4
    assert seen[3:] == [Views(size=Size(512, 512))]


def test_a_photo_that_encodes_to_nan_is_named(photos, tmp_path):
    class Broken(FakePipeline):
        def encode_images(self, params, images):
            mean, logvar = super().encode_images(params, images)
            return np.where(mean.mean(axis=(1, 2, 3), keepdims=True) < 9, np.nan, mean), logvar

    with pytest.raises(InputError, match=r"0\.png: the autoencoder gives NaN"):
        moments(Broken(), photos, tmp_path)


def test_latents_of_a_run_in_16_bits_are_those_of_float32(photos, tmp_path):
    """And so is the file that they are kept in: what earlier versions encoded in 16 bits has another name."""
    given = []
    for dtype in ("bfloat16", "float32"):
        pipe = load_pretrained(runs.MODEL, dtype=dtype)
        data = load_config(None, ["data.resolution=16"]).data
        given.append(cache.Encoder(pipe=pipe, data=data, seed=0, cache=tmp_path / dtype).prior(photos[:1]).moments)
    for found, expected in zip(*given, strict=True):
        np.testing.assert_array_equal(found, expected)
    first, second = (next((tmp_path / dtype).iterdir()).name for dtype in ("bfloat16", "float32"))
    assert first == second


def test_texts_are_stored_once(photos):
    pipe = load_pretrained(runs.MODEL)
    prompts = ["a dog", "a sks dog", "a dog"]
    ids, index = text_table(pipe, prompts, params=pipe.params, encode=False)
    assert ids["input_ids/text_encoder"].shape == (2, 77)
    np.testing.assert_array_equal(ids["input_ids/text_encoder"][index], pipe.tokenizer(prompts))
    states, index = text_table(pipe, prompts, params=pipe.params, encode=True)
    np.testing.assert_allclose(
        states["condition/states"][index], np.asarray(pipe.encode_prompts(pipe.params, prompts)), atol=1e-6
    )
