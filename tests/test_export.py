# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is saved of a pipeline comes back as it was."""

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


def test_parameters_of_another_model_are_refused(pipe, tmp_path):
    without_vae = {name: tree for name, tree in pipe.params.items() if name != "vae"}
    with pytest.raises(InputError, match="what is to be saved .* missing: vae/"):
        save_pretrained(tmp_path / "model", pipe, without_vae)
    odd = map_named(lambda name, leaf: leaf[:1] if name == "unet/conv_in/bias" else leaf, pipe.params)
    with pytest.raises(InputError, match="1 misshaped: unet/conv_in/bias"):
        save_pretrained(tmp_path / "model", pipe, odd)
    assert not (tmp_path / "model").exists()
