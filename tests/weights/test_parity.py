# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What we save, diffusers opens; what diffusers saves, we open; and nothing changes on the way."""

import json
import re
import shutil

import numpy as np
import pytest

from dreambooth_jax.errors import InputError
from dreambooth_jax.weights.pretrained import load_components
from tests import torch_models
from tests.weights.folders import FIXTURES, KINDS, assert_same, write

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

COMPONENTS = ("text_encoder", "unet", "vae")


def _open(folder, **options):
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _picture(pipe):
    generator = torch.Generator().manual_seed(0)
    return pipe("a photo of sks dog", num_inference_steps=2, output_type="np", generator=generator).images


@pytest.fixture(scope="module", params=torch_models.KINDS)
def theirs(request, tmp_path_factory):
    """(diffusers' pipeline, the folder that it saved)."""
    tokenizer = FIXTURES / ("legacy_flax_sd15" if request.param == "sd15" else "legacy_flax_sd21") / "tokenizer"
    models = torch_models.build(request.param)
    pipe = diffusers.StableDiffusionPipeline(
        unet=models.unet,
        vae=models.vae,
        text_encoder=models.text_encoder,
        tokenizer=transformers.CLIPTokenizer.from_pretrained(tokenizer),
        scheduler=diffusers.DDIMScheduler.from_config(torch_models.scheduler_config(request.param)),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    folder = tmp_path_factory.mktemp(request.param)
    pipe.save_pretrained(folder)
    return pipe, folder


def test_we_open_what_they_save(theirs):
    pipe, folder = theirs
    expected = {name: torch_models.params_from_torch(getattr(pipe, name)) for name in COMPONENTS}
    assert_same(load_components(folder).params, expected)


def test_they_open_what_we_save(theirs, tmp_path):
    pipe, folder = theirs
    opened = _open(write(tmp_path / "model", load_components(folder)))
    for name in COMPONENTS:
        old, new = (getattr(p, name).state_dict() for p in (pipe, opened))
        assert old.keys() == new.keys()
        for key in old:
            np.testing.assert_array_equal(new[key], old[key], err_msg=f"{name} {key}")
    np.testing.assert_array_equal(_picture(opened), _picture(pipe))


@pytest.mark.parametrize("theirs", ["sd21"], indirect=True)
def test_we_open_their_shards_and_variants(theirs, tmp_path):
    pipe, folder = theirs
    expected = load_components(folder).params
    pipe.save_pretrained(tmp_path / "shards", max_shard_size="200KB")
    assert (tmp_path / "shards" / "unet" / "diffusion_pytorch_model.safetensors.index.json").exists()
    assert_same(load_components(tmp_path / "shards").params, expected)
    pipe.save_pretrained(tmp_path / "variant", variant="fp16", max_shard_size="200KB")
    assert_same(load_components(tmp_path / "variant", variant="fp16").params, expected)
    with pytest.raises(InputError, match="choose variant=fp16"):
        load_components(tmp_path / "variant")


@pytest.mark.parametrize("theirs", ["sd21"], indirect=True)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_they_open_half_precision(theirs, tmp_path, dtype):
    pipe, folder = theirs
    opened = _open(write(tmp_path / "model", load_components(folder), dtype=dtype))
    half = getattr(torch, dtype)
    for name in COMPONENTS:
        old, new = (getattr(p, name).state_dict() for p in (pipe, opened))
        for key in old:
            assert torch.equal(new[key].float(), old[key].to(half).float()), key


@pytest.mark.filterwarnings("ignore:The configuration file of this scheduler:FutureWarning")  # clips samples
@pytest.mark.parametrize("kind", KINDS)
def test_a_legacy_flax_folder_comes_to_pytorch(tmp_path, kind):
    opened = _open(write(tmp_path / "model", load_components(FIXTURES / kind)))
    reference = np.load(FIXTURES / kind / "reference.npz")
    with torch.no_grad():
        states = opened.text_encoder(torch.tensor(reference["input_ids"])).last_hidden_state
        latents, timesteps = (torch.tensor(reference[key]) for key in ("unet_sample", "unet_timesteps"))
        out = opened.unet(latents, timesteps, torch.tensor(reference["text_hidden"])).sample
        decoded = opened.vae.decode(latents).sample
    for found, key in ((states, "text_hidden"), (out, "unet_out"), (decoded, "vae_decoded")):
        assert np.abs(found.numpy() - reference[key]).max() <= 1e-5 * np.abs(reference[key]).max()
    assert np.isfinite(_picture(opened)).all()


@pytest.mark.parametrize("theirs", ["sd21"], indirect=True)
def test_pickles_and_the_way_out_that_the_error_names(theirs, tmp_path, monkeypatch):
    """In one file for each network they are read; in parts they are refused."""
    pipe, folder = theirs
    shutil.copytree(folder, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    files = []
    for name in COMPONENTS:
        stem = "pytorch_model" if name == "text_encoder" else "diffusion_pytorch_model"
        files.append(tmp_path / "model" / name / f"{stem}.bin")
        torch.save(getattr(pipe, name).state_dict(), files[-1])
    expected = load_components(folder).params
    assert_same(load_components(tmp_path / "model").params, expected)
    index = files[0].with_name("pytorch_model.bin.index.json")
    places = dict.fromkeys(torch.load(files[0]), "pytorch_model-00001-of-00001.bin")
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    files[0].rename(files[0].with_name("pytorch_model-00001-of-00001.bin"))
    with pytest.raises(InputError, match="python -c") as caught:
        load_components(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    exec(re.search(r'python -c "(.*)"', str(caught.value))[1])
    assert_same(load_components(tmp_path / "FOLDER").params, expected)
