# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A model with another autoencoder or denoiser: of a folder, a model's folder, or a single file."""

import dataclasses
import json
import logging
import shutil
from functools import partial

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dreambooth_jax.errors import InputError
from dreambooth_jax.models.components import VAE
from dreambooth_jax.pipeline.load import with_parts
from dreambooth_jax.weights import files
from dreambooth_jax.weights.identity import identify
from dreambooth_jax.weights.pretrained import load_components, load_module
from dreambooth_jax.weights.swapping import with_part
from tests.weights.folders import FIXTURES, assert_same, rewrite, weights
from tests.weights.originals import Original

SOURCE = FIXTURES / "legacy_flax_sd15"
SIZES = Original()
swapped, with_unet = partial(with_part, "vae"), partial(with_part, "unet")


def place(name, array):
    return jax.device_put(array)


@pytest.fixture
def other(folder):
    """A model's folder with another autoencoder."""
    rewrite(folder, "vae", lambda arrays: {name: array / 2 for name, array in arrays.items()})
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A single file of an autoencoder alone, in the layout of the original code."""
    prefix = "first_stage_model."
    arrays = {name.removeprefix(prefix): a for name, a in SIZES.arrays().items() if name.startswith(prefix)}
    file = tmp_path_factory.mktemp("vae") / "vae-ft.safetensors"
    save_file(arrays | {"loss.logvar": np.zeros((), np.float32)}, file)
    return file


@pytest.mark.parametrize("form", ["a model", "an autoencoder", "its weights file"])
def test_a_folder(sd15, other, form):
    source = {"a model": other, "an autoencoder": other / "vae", "its weights file": weights(other, "vae")}[form]
    components, params = swapped(sd15, source, place=place)
    assert_same(params, load_components(other).params["vae"])
    assert components.configs["vae"] == json.loads((other / "vae" / "config.json").read_text())
    assert components.modules["unet"] is sd15.modules["unet"]
    assert components.fingerprint not in ("", sd15.fingerprint)


def test_the_same_is_known_wherever_it_lies(sd15, other, tmp_path):
    one, _ = swapped(sd15, other, place=place)
    two, _ = swapped(sd15, shutil.copytree(other / "vae", tmp_path / "elsewhere"), place=place)
    assert one.fingerprint == two.fingerprint
    rewrite(other, "vae", lambda arrays: {name: array * 3 for name, array in arrays.items()})
    assert swapped(sd15, other, place=place)[0].fingerprint != one.fingerprint


def test_a_single_file_alone_or_of_a_model(sd15, original, tmp_path):
    whole = SIZES.write(tmp_path / "model.safetensors")
    ours, alone = swapped(sd15, original, place=place)
    _, within = swapped(sd15, whole, place=place)
    assert_same(alone, within)
    tokenizer = SOURCE / "tokenizer"
    assert_same(alone, load_components(whole, tokenizer=tokenizer).params["vae"])
    assert ours.modules["vae"].config.scaling_factor == sd15.modules["vae"].config.scaling_factor


def test_latents_of_a_single_file_are_scaled_as_the_models(sd15, original):
    config = dataclasses.replace(sd15.modules["vae"].config, scaling_factor=0.5)
    model = dataclasses.replace(sd15, modules={**sd15.modules, "vae": VAE.build(config)})
    components, _ = swapped(model, original, place=place)
    assert components.modules["vae"].config.scaling_factor == components.configs["vae"]["scaling_factor"] == 0.5


def test_shapes_alone_read_nothing(sd15, original, other, monkeypatch):
    monkeypatch.setattr(files, "_load", lambda *_: pytest.fail("read"))
    weights(other, "vae").unlink()
    for source in (original, other):
        _, shapes = swapped(sd15, source, place=None)
        assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shapes))


def test_a_pipeline(other, caplog):
    from dreambooth_jax.pipeline import load_pretrained

    plain = load_pretrained(SOURCE)
    with caplog.at_level(logging.INFO):
        asked, later = load_pretrained(SOURCE, vae=other), with_parts(plain, vae=other)
    for pipe in (asked, later):
        assert_same(pipe.params["vae"], load_components(other).params["vae"])
        assert_same(pipe.params["unet"], plain.params["unet"])
    assert asked.components.fingerprint == later.components.fingerprint
    assert load_pretrained(SOURCE).components.fingerprint == plain.components.fingerprint


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: (f / "vae" / "config.json").unlink(),
            "is no AutoencoderKL .*: it lacks config",
        ),
        (lambda f: weights(f, "vae").unlink(), "has no weights"),
        (lambda f: rewrite(f, "vae", lambda a: a | {"x.weight": np.zeros(3, np.float32)}), "1 extra: x"),
    ],
)
def test_what_is_none_is_one_line(sd15, other, spoil, message):
    spoil(other)
    with pytest.raises(InputError, match=message) as caught:
        swapped(sd15, other / "vae", place=place)
    assert "\n" not in str(caught.value)


def test_one_that_does_not_fit(sd15, tmp_path):
    file = Original(z_channels=8).write(tmp_path / "wide.safetensors")
    with pytest.raises(InputError, match=r"vae = .*wide.safetensors: unet's out_channels = 4 does not fit the vae's"):
        swapped(sd15, file, place=place)


def test_a_file_without_its_settings(sd15, other, tmp_path):
    lonely = shutil.copyfile(weights(other, "vae"), tmp_path / "lonely.safetensors")
    with pytest.raises(InputError, match=r"holds no AutoencoderKL that its names tell, .* no config\.json beside it"):
        swapped(sd15, lonely, place=place)


@pytest.mark.parity
def test_diffusers_reads_the_same(original, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    from tests import torch_models

    torch_models.build_vae(norm_num_groups=32).save_pretrained(tmp_path / "vae")
    theirs = diffusers.AutoencoderKL.from_single_file(
        str(original), config=str(tmp_path / "vae"), local_files_only=True
    )
    _, params = load_module(original, VAE)
    assert_same(params, torch_models.params_from_torch(theirs))


def test_an_original_is_written_with_the_file_of_its_model(sd15, original, tmp_path):
    from tests.weights.test_single_file import written

    components, params = swapped(sd15, original, place=place)

    file = written(tmp_path / "m.safetensors", dataclasses.replace(components, params={**sd15.params, "vae": params}))
    stored, alone = load_file(file), load_file(original)
    for name, array in alone.items():
        if not name.startswith("loss."):
            np.testing.assert_array_equal(stored[f"first_stage_model.{name}"], array)


class TestUNet:
    """A denoiser alone, as those of Lightning and of LCM are offered."""

    @pytest.fixture
    def other(self, folder):
        """A model's folder with another denoiser, whose configuration says more than the model's own."""
        rewrite(folder, "unet", lambda arrays: {name: array / 2 for name, array in arrays.items()})
        return folder

    @pytest.mark.parametrize("form", ["a model", "a denoiser", "its weights file", "a file alone"])
    def test_wherever_it_lies(self, sd15, other, tmp_path, form):
        """What it was trained from stays the model's: the autoencoder, text encoders and the schedule."""
        alone = shutil.copyfile(weights(other, "unet"), tmp_path / "alone.safetensors")
        forms = {"a model": other, "a denoiser": other / "unet", "its weights file": weights(other, "unet")}
        source = (forms | {"a file alone": alone})[form]
        components, params = with_unet(sd15, source, place=place)
        assert_same(params, load_components(other).params["unet"])
        assert components.modules["vae"] is sd15.modules["vae"]
        assert components.modules["unet"] == sd15.modules["unet"]
        assert components.fingerprint == identify(SOURCE, unet=source).fingerprint != sd15.fingerprint
        _, shapes = with_unet(sd15, source, place=None)
        assert jax.tree.map(np.shape, shapes) == jax.tree.map(np.shape, params)

    def test_its_configuration_is_its_own(self, sd15, other):
        """A whole LCM is told of the guidance scale, which the model's own denoiser is not."""
        settings = other / "unet" / "config.json"
        settings.write_text(json.dumps({**json.loads(settings.read_text()), "time_cond_proj_dim": 8}))
        wide = sd15.modules["unet"].config.block_out_channels[0]
        added = {"time_embedding.cond_proj.weight": np.ones((wide, 8), np.float32)}
        rewrite(other, "unet", lambda arrays: arrays | added)
        components, params = with_unet(sd15, other, place=place)
        assert components.modules["unet"].config.time_cond_proj_dim == 8
        np.testing.assert_array_equal(params["time_embedding"]["cond_proj"]["kernel"], np.ones((8, wide)))

    def test_in_the_original_layout_with_and_without_the_rest(self, tmp_path):
        """With the names of the file of a whole model, or without their first part."""
        model = load_components(SIZES.write(tmp_path / "model.safetensors"), tokenizer=SOURCE / "tokenizer")
        arrays, prefix = Original().arrays(seed=5), "model.diffusion_model."
        mine = {name: array for name, array in arrays.items() if name.startswith(prefix)}
        whole, alone, bare = (tmp_path / f"{name}.safetensors" for name in ("whole", "alone", "bare"))
        save_file(arrays, whole)
        save_file(mine, alone)
        save_file({name.removeprefix(prefix): array for name, array in mine.items()}, bare)
        expected = load_components(whole, tokenizer=SOURCE / "tokenizer").params["unet"]
        for file in (whole, alone, bare):
            components, params = with_unet(model, file, place=place)
            assert_same(params, expected)
            assert components.configs["unet"] == model.configs["unet"]

    def test_one_that_does_not_fit(self, sd15, tmp_path, other):
        wide = Original(model_channels=96).write(tmp_path / "wide.safetensors")
        with pytest.raises(InputError, match=r"wide\.safetensors .*") as caught:
            with_unet(sd15, wide, place=place)
        assert "\n" not in str(caught.value)
        settings = other / "unet" / "config.json"
        settings.write_text(json.dumps({**json.loads(settings.read_text()), "cross_attention_dim": 48}))
        with pytest.raises(InputError, match=r"unet = .*cross_attention_dim = 48 does not fit"):
            with_unet(sd15, other, place=place)

    def test_a_pipeline_with_both(self, other):
        from dreambooth_jax.pipeline import load_pretrained

        rewrite(other, "vae", lambda arrays: {name: array / 3 for name, array in arrays.items()})
        asked = load_pretrained(SOURCE, vae=other, unet=other)
        both = load_components(other).params
        for name in ("vae", "unet"):
            assert_same(asked.params[name], both[name])
        assert asked.components.fingerprint == identify(SOURCE, vae=other, unet=other).fingerprint
