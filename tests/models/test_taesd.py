# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The tiny autoencoder against diffusers' AutoencoderTiny, its files, and previews."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import dreambooth_jax as dbx
from dreambooth_jax.errors import InputError
from dreambooth_jax.evaluation.samples import labelled_grid
from dreambooth_jax.models.components import TAESD, TAESD_DECODER, TAESD_ENCODER
from dreambooth_jax.models.taesd import TAESDConfig
from dreambooth_jax.pipeline.preview import linear_preview, load_preview
from dreambooth_jax.weights.modules import parameter_shapes
from dreambooth_jax.weights.pretrained import load_module
from tests import torch_models
from tests.runs import MODEL, tiny_config
from tests.weights.folders import assert_same

SIZES = {"encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8)} | {
    "num_encoder_blocks": (1, 2, 3),
    "num_decoder_blocks": (3, 2, 1),
}


def build(**options):
    """diffusers' network with random weights."""
    import diffusers

    return torch_models._randomised(diffusers.AutoencoderTiny(**{**SIZES, **options}), seed=0, double=False)


def originals(model, folder):
    """Two files as the original keeps them: lists of layers, the decoder's with a clamp in front."""
    for half, shift in (("encoder", 0), ("decoder", 1)):
        arrays = {}
        for name, tensor in getattr(model, half).layers.state_dict().items():
            number, _, rest = name.partition(".")
            arrays[f"{int(number) + shift}.{rest}"] = tensor.numpy()
        save_file(arrays, folder / f"taesd_{half}.safetensors")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """(diffusers' network, the folder that it saved, which has the original's files, too)."""
    pytest.importorskip("diffusers")
    model, folder = build(), tmp_path_factory.mktemp("taesd")
    model.save_pretrained(folder)
    originals(model, folder)
    return model, folder


@pytest.mark.parity
class TestParity:
    """diffusers is right."""

    def test_a_folder_in_float64(self, theirs):
        import torch

        model, folder = theirs
        with jax.enable_x64():
            module, params = load_module(folder, TAESD, param_dtype=np.float64, dtype=np.float64)
            rng = np.random.default_rng(0)
            images, latents = rng.uniform(-1, 1, (2, 24, 16, 3)), 2 * rng.normal(size=(2, 6, 4, 4))
            ours = [
                module.apply({"params": params}, jax.numpy.asarray(x), method=way)
                for x, way in ((images, "encode"), (latents, "decode"))
            ]
        double = build().double()
        with torch.no_grad():
            expected = [
                double.encode(torch.tensor(images).permute(0, 3, 1, 2)).latents,
                double.decode(torch.tensor(latents).permute(0, 3, 1, 2)).sample,
            ]
        for mine, their in zip(ours, expected):
            np.testing.assert_allclose(mine, their.permute(0, 2, 3, 1).numpy(), rtol=1e-10, atol=1e-12)
        del model

    def test_the_files_of_the_original(self, theirs):
        _, folder = theirs
        whole, params = load_module(folder, TAESD)
        for half, kind in (("encoder", TAESD_ENCODER), ("decoder", TAESD_DECODER)):
            module, own = load_module(folder / f"taesd_{half}.safetensors", kind)
            assert_same(own, params[half])
            for name in (f"num_{half}_blocks", f"{half}_block_out_channels", "latent_channels"):
                assert getattr(module.config, name) == getattr(whole.config, name)

    def test_previews_are_the_decoders_pictures(self, theirs):
        import torch

        model, folder = theirs
        latents = np.random.default_rng(1).normal(size=(2, 4, 6, 4)).astype(np.float32)
        with torch.no_grad():
            their = model.decode(torch.tensor(latents).permute(0, 3, 1, 2)).sample.permute(0, 2, 3, 1).numpy()
        for source in (folder, folder / "taesd_decoder.safetensors"):
            ours = load_preview(source)(latents)
            assert (ours.dtype, ours.shape) == (np.uint8, (2, 16, 24, 3))
            assert np.abs(ours - np.clip(127.5 * (their + 1), 0, 255)).max() <= 0.51

    @pytest.mark.slow
    def test_it_draws_the_grids_of_a_run(self, theirs, tmp_path):
        _, folder = theirs
        settings = ["train.steps=1", "samples.every=1", "samples.steps=2", "samples.num_images=2", "prior.num_images=2"]
        dbx.train(tiny_config(tmp_path, *settings, f"samples.preview_vae={folder}"))
        pipe, preview = dbx.load_pretrained(MODEL), load_preview(folder)
        prompts = ["a photo of sks dog", "a photo of a dog"]
        latents = [pipe([text] * 2, steps=2, height=16, width=16, output="latents") for text in prompts]
        grid = labelled_grid([preview(row) for row in latents], prompts, title="step 0")
        with Image.open(tmp_path / "run" / "samples" / "step_000000.png") as drawn:
            np.testing.assert_array_equal(np.asarray(drawn), grid)


def test_that_of_a_run_is_missed_before_anything_is_made(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        dbx.train(tiny_config(tmp_path, "samples.every=1", f"samples.preview_vae={tmp_path / 'nowhere'}"))
    assert not (tmp_path / "class").exists()


def test_names_of_the_published_network():
    """2,445,063 numbers: 1,222,532 of the encoder, as its authors count, and 1,222,531 of the decoder."""
    config = TAESDConfig()
    sizes = {
        kind: sum(leaf.size for leaf in parameter_shapes(kind, kind.build(config)).values())
        for kind in (TAESD, TAESD_ENCODER, TAESD_DECODER)
    }
    assert sizes == {TAESD: 2_445_063, TAESD_ENCODER: 1_222_532, TAESD_DECODER: 1_222_531}
    assert config.downscale == 8


@pytest.mark.parametrize(
    "change",
    [
        {"act_fn": "gelu"},
        {"num_decoder_blocks": [1, 2]},
        {"decoder_block_out_channels": [8, 16, 8]},
        {"scaling_factor": 0.5},
        {"latent_channels": 0},
    ],
)
def test_what_another_network_has_is_refused(change):
    with pytest.raises(InputError, match=next(iter(change))):
        TAESDConfig.from_json(json.loads(json.dumps({**SIZES, **change})))


class TestLinear:
    """A preview of no network."""

    def test_it_is_linear_about_grey(self):
        rng = np.random.default_rng(0)
        a, b = (rng.normal(size=(1, 3, 5, 4)).astype(np.float32) / 4 for _ in "ab")
        pictures = [linear_preview(x).astype(float) - 127.5 for x in (a, b, a + b)]
        assert np.abs(pictures[0] + pictures[1] - pictures[2]).max() <= 1.5
        assert np.abs(linear_preview(0 * a) - 127.5).max() <= 0.5
        assert linear_preview(a).shape == (1, 3, 5, 3)

    def test_nothing_overflows(self):
        latents = np.array([np.inf, -np.inf, np.nan, 1e30], np.float32).reshape(1, 2, 2, 1).repeat(4, -1)
        with np.errstate(invalid="ignore"):
            assert linear_preview(latents).dtype == np.uint8

    @pytest.mark.parametrize("shape", [(1, 2, 2, 16), (2, 2, 4)])
    def test_latents_of_other_models(self, shape):
        with pytest.raises(InputError, match="give preview a tiny autoencoder"):
            linear_preview(np.zeros(shape, np.float32))


def test_a_file_that_is_none(tmp_path):
    save_file({"encoder.conv_in.weight": np.zeros(3, np.float32)}, tmp_path / "vae.safetensors")
    with pytest.raises(InputError, match="holds no AutoencoderTiny"):
        load_preview(tmp_path / "vae.safetensors")
