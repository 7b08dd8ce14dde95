# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The model and the pictures that ship with the package."""

import numpy as np
import pytest

from dreambooth_jax.config import load_config
from dreambooth_jax.config.concepts import concepts_of
from dreambooth_jax.pipeline import load_pretrained
from dreambooth_jax.pipeline.load import EMBEDDED
from dreambooth_jax.prepare.photos import read_instance_photos
from dreambooth_jax.trees import count


def test_it_is_small_and_its_licences_travel_with_it():
    files = [path for path in EMBEDDED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 30e6
    names = {str(path.relative_to(EMBEDDED)) for path in files}
    assert {"README.md", "ATTRIBUTION.txt", "model_index.json"} <= names
    assert any(name.startswith("LICENCES/") for name in names)


def test_it_opens_and_draws():
    pipe = load_pretrained("embedded")
    assert pipe.native_size == 64
    assert count(pipe.params) < 15e6
    (picture,) = pipe(["a red car on a blue background"], steps=2)
    assert picture.shape == (64, 64, 3)
    assert picture.std() > 5


@pytest.mark.parity
def test_diffusers_opens_it_and_draws_the_same():
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(EMBEDDED).to(torch.float32)
    theirs.set_progress_bar_config(disable=True)
    prompts = ["a cat on a red background", "a sks alien on the left on a blue background"]
    pipe, run = load_pretrained("embedded"), {"guidance_scale": 4.0}
    latents = np.random.default_rng(0).normal(size=(2, 16, 16, 4)).astype(np.float32)
    found = pipe(prompts, latents=latents, steps=10, output="float32", **run)
    drawn = torch.from_numpy(latents.transpose(0, 3, 1, 2))
    expected = theirs(prompts, latents=drawn, num_inference_steps=10, output_type="np", height=64, width=64, **run)
    np.testing.assert_allclose(found, expected.images, atol=2e-5)


def test_the_rare_words_fall_into_pieces_that_it_knows():
    pipe = load_pretrained("embedded")
    for word in ("sks", "zwx", "olis"):
        assert 1 <= len(pipe.tokenizer.pieces(word)) <= 4


def test_the_subject_has_five_pictures():
    config = load_config(None, ["data.instance_images=embedded", "data.class_noun=alien", "data.resolution=64"])
    (concept,) = concepts_of(config)
    photos = read_instance_photos(concept, config.data)
    assert len(photos) == 5
    assert len({photo.digest for photo in photos}) == 5
    assert all(np.asarray(photo.image()).std() > 10 for photo in photos)


def test_the_quickstart_uses_both():
    config = load_config(EMBEDDED.parents[1] / "configs" / "quickstart.yaml")
    assert (config.model.path, config.data.instance_images) == ("embedded", "embedded")
