# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is saved of a pipeline comes back as it was."""

import shutil

import jax
import numpy as np
import pytest

from dreambooth_jax.errors import InputError
from dreambooth_jax.export import save_pretrained
from dreambooth_jax.pipeline import load_pretrained
from dreambooth_jax.trees import map_named
from tests.weights.folders import FIXTURES, assert_same

SOURCE = FIXTURES / "legacy_flax_sd15"


@pytest.fixture(scope="module")
def pipe():
    return load_pretrained(SOURCE)


@pytest.mark.parametrize("format", ["safetensors", "flax"])
def test_round_trip_of_other_parameters(pipe, tmp_path, format):
    trained = jax.tree.map(lambda leaf: -np.asarray(leaf), pipe.params)
    save_pretrained(tmp_path / "model", pipe, trained, format=format)
    again = load_pretrained(tmp_path / "model")
    assert_same(again.params, trained)
    assert (again.unet, again.vae, again.text_encoder) == (pipe.unet, pipe.vae, pipe.text_encoder)
    settings, source = (dict(p.components.scheduler_config) for p in (again, pipe))
    assert settings.pop("_class_name").removeprefix("Flax") == source.pop("_class_name").removeprefix("Flax")
    assert settings == source
    np.testing.assert_array_equal(again.tokenizer(["a photo of sks dog"]), pipe.tokenizer(["a photo of sks dog"]))


def test_round_trip_of_other_parameters_as_a_single_file(pipe, tmp_path):
    trained = jax.tree.map(lambda leaf: -np.asarray(leaf), pipe.params)
    save_pretrained(tmp_path / "dog.safetensors", pipe, trained, format="ldm")
    again = load_pretrained(tmp_path / "dog.safetensors", tokenizer=SOURCE)
    assert_same(again.params, trained)
    assert (again.unet, again.vae, again.text_encoder) == (pipe.unet, pipe.vae, pipe.text_encoder)
    assert again.components.scheduler_config == pipe.components.scheduler_config
    np.testing.assert_array_equal(again.tokenizer(["a photo of sks dog"]), pipe.tokenizer(["a photo of sks dog"]))
    with pytest.raises(InputError, match="would lose it"):
        save_pretrained(tmp_path / "dog.safetensors", again, trained, format="ldm")
    save_pretrained(tmp_path / "folder", again, trained)
    assert_same(load_pretrained(tmp_path / "folder").params, trained)


def test_parameters_of_another_model_are_refused(pipe, tmp_path):
    without_vae = {name: tree for name, tree in pipe.params.items() if name != "vae"}
    with pytest.raises(InputError, match="what is to be saved .* missing: vae/"):
        save_pretrained(tmp_path / "model", pipe, without_vae)
    odd = map_named(lambda name, leaf: leaf[:1] if name == "unet/conv_in/bias" else leaf, pipe.params)
    with pytest.raises(InputError, match="1 misshaped: unet/conv_in/bias"):
        save_pretrained(tmp_path / "model", pipe, odd)
    assert not (tmp_path / "model").exists()


def test_what_is_not_finite_is_not_saved(pipe, tmp_path):
    spoilt = map_named(lambda name, leaf: leaf * np.nan if name == "vae/quant_conv/bias" else leaf, pipe.params)
    with pytest.raises(InputError, match="vae/quant_conv/bias has values that are not finite"):
        save_pretrained(tmp_path / "model", pipe, spoilt)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("", {}, "no folder"),
        ("model", {"format": "ckpt"}, "format = 'ckpt'"),
        ("model", {"format": "ldm"}, "model: format = ldm writes one file, whose name ends in .safetensors"),
        ("dog.safetensors", {}, "dog.safetensors is the name of a single file: add format=ldm"),
        *(("model", {"dtype": dtype}, "dtype = ") for dtype in ("int8", "float64", "many", None, 5)),
    ],
)
def test_what_cannot_be_written_is_named(untyped, pipe, tmp_path, monkeypatch, path, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        save_pretrained(path, pipe, pipe.params, **options)
    assert not list(tmp_path.iterdir())


def test_a_model_is_not_written_over_itself(tmp_path):
    """Nor over the one that a run still needs, nor into the run's own folders."""
    model = shutil.copytree(SOURCE, tmp_path / "model")
    pipe = load_pretrained(model)
    (tmp_path / "link").symlink_to(model)
    for place in (model, tmp_path / "link", tmp_path / "x" / ".." / "model"):
        with pytest.raises(InputError, match="would lose it"):
            save_pretrained(place, pipe, pipe.params)
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").touch()
    for place in (run, run / "checkpoints", run / "class_images"):
        with pytest.raises(InputError, match="is of a run"):
            save_pretrained(place, pipe, pipe.params)
    save_pretrained(run / "model", pipe, pipe.params)
    assert_same(load_pretrained(run / "model").params, pipe.params)
