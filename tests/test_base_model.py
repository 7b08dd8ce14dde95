# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A run belongs to the model that it was trained on: what lies beside its files does not matter, another model does."""

import shutil

import numpy as np
import pytest

import dreambooth_jax as dbx
from dreambooth_jax.cli import main
from dreambooth_jax.errors import InputError
from dreambooth_jax.runs import open_model
from dreambooth_jax.training import checkpoint
from dreambooth_jax.weights.fingerprint import folder_fingerprint
from dreambooth_jax.weights.pretrained import load_components
from tests.runs import MODEL, tiny_config
from tests.weights import folders

pytestmark = pytest.mark.filterwarnings("ignore:.*:ResourceWarning")


def other_weights(folder, *, variant=None):
    """Another text encoder, in the place of the plain one or as a variant beside it."""
    file = folders.weights(folder, "text_encoder")
    plain = file.read_bytes()
    folders.rewrite(folder, "text_encoder", lambda arrays: {name: 1.5 * array for name, array in arrays.items()})
    if variant:
        file.rename(file.with_suffix(f".{variant}.safetensors"))
        file.write_bytes(plain)


def config_of(root, *overrides):
    return tiny_config(root, f"model.path={root / 'model'}", "checkpoint.every=1", "prior.num_images=2", *overrides)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One step of a run on a model of plain files."""
    root = tmp_path_factory.mktemp("trained")
    folders.write(root / "model", load_components(MODEL))
    dbx.train(config_of(root, "train.steps=1"))
    return root


@pytest.fixture
def run(trained):
    """A copy; its model is found at the place where the original's was."""
    kept = trained.parent / "kept"
    shutil.copytree(trained, kept)
    yield trained
    shutil.rmtree(trained)
    kept.rename(trained)


def opens(root, **options):
    return open_model(str(root / "run"), **options)


def test_a_file_that_is_not_read_refuses_nothing(run):
    other_weights(run / "model", variant="fp16")
    (run / "model" / "unet" / "notes.txt").write_text("mine")
    assert opens(run).config is not None
    dbx.train(config_of(run, "train.steps=2"))
    assert checkpoint.complete_steps(run / "run" / "checkpoints") == [1, 2]


def test_another_model_in_its_place_is_refused_by_all(run, capsys):
    shutil.rmtree(run / "run" / "model")
    other_weights(run / "model")
    with pytest.raises(InputError, match="the weights of the model changed"):
        dbx.train(config_of(run, "train.steps=2"))
    message = r"was trained on another model than .*/model now is .*: put it back, or set model\.path"
    with pytest.raises(InputError, match=message) as caught:
        opens(run)
    assert "\n" not in str(caught.value)
    for verb in (["sample", str(run / "run"), "a dog"], ["export", str(run / "run"), str(run / "written")]):
        assert main(verb) == 2
        assert "was trained on another model" in capsys.readouterr().err
    assert not (run / "written").exists()


def test_the_way_out_is_the_model_that_the_run_wrote(run):
    other_weights(run / "model")
    with pytest.raises(InputError, match=r"the finished model in .*/run/model has all of its own"):
        opens(run)
    assert open_model(str(run / "run" / "model")).config is None


def test_another_variant_is_another_model(run):
    other_weights(run / "model", variant="fp16")
    with pytest.raises(InputError, match="the weights of the model changed"):
        dbx.train(config_of(run, "train.steps=2", "model.variant=fp16"))


class TestAnotherAutoencoder:
    """``model.vae`` is a part of the model of a run."""

    @pytest.fixture
    def other(self, tmp_path):
        """Of another model's folder: half its weights."""
        folder = shutil.copytree(MODEL, tmp_path / "other")
        folders.write(tmp_path / "halved", load_components(folder))
        folders.rewrite(tmp_path / "halved", "vae", lambda arrays: {k: a / 2 for k, a in arrays.items()})
        return tmp_path / "halved"

    def test_swapping_it_is_another_model(self, run, other):
        with pytest.raises(InputError, match="the weights of the model changed"):
            dbx.train(config_of(run, "train.steps=2", f"model.vae={other}"))

    def test_telling_what_is_predicted_is_another_model(self, run):
        with pytest.raises(InputError, match="the weights of the model changed"):
            dbx.train(config_of(run, "train.steps=2", "model.prediction_type=v_prediction"))

    def test_one_run_may_be_looked_at_through_another(self, run, other):
        plain, swapped = opens(run), opens(run, vae=str(other))
        theirs = load_components(other).params["vae"]
        folders.assert_same(swapped.params["vae"], theirs)
        assert swapped.pipe.params is swapped.params
        folders.assert_same(swapped.params["unet"], plain.params["unet"])

    @pytest.mark.slow
    def test_a_run_with_one_goes_on_samples_and_exports_it(self, run, other):
        shutil.rmtree(run / "run")
        shutil.rmtree(run / "class")
        told = f"model.vae={other / 'vae'}"
        dbx.train(config_of(run, "train.steps=1", told))
        dbx.train(config_of(run, "train.steps=2", told))
        with pytest.raises(InputError, match="the weights of the model changed"):
            dbx.train(config_of(run, "train.steps=3"))
        theirs = load_components(other).params["vae"]
        folders.assert_same(opens(run).params["vae"], theirs)
        folders.assert_same(load_components(run / "run" / "model").params["vae"], theirs)


@pytest.mark.slow
class TestEarlierRuns:
    """0.1.0 took the fingerprint of all that lay in the model's folder."""

    @pytest.fixture
    def earlier(self, run, monkeypatch):
        """A run of 0.1.0, whose model lay beside an fp16 variant."""
        shutil.rmtree(run / "run")
        shutil.rmtree(run / "class")
        other_weights(run / "model", variant="fp16")
        with monkeypatch.context() as patch:
            patch.setattr("dreambooth_jax.weights.sources.fingerprint", lambda folder, *_: folder_fingerprint(folder))
            dbx.train(config_of(run, "train.steps=1"))
        return run

    def test_they_go_on_and_are_known_by_what_they_read_from_then_on(self, earlier):
        assert opens(earlier).config is not None
        dbx.train(config_of(earlier, "train.steps=2"))
        stored = [
            checkpoint.read_meta(earlier / "run" / "checkpoints", step)["fingerprints"]["model"] for step in (1, 2)
        ]
        assert stored == [folder_fingerprint(earlier / "model"), load_components(earlier / "model").fingerprint]
        (earlier / "model" / "unet" / "diffusion_pytorch_model.bf16.safetensors").write_bytes(b"of later")
        assert opens(earlier).config is not None

    def test_another_variant_or_autoencoder_is_still_another_model(self, earlier):
        for told in ("model.variant=fp16", f"model.vae={MODEL / 'vae'}", "model.prediction_type=v_prediction"):
            with pytest.raises(InputError, match="the weights of the model changed"):
                dbx.train(config_of(earlier, "train.steps=2", told))


def test_a_run_folder_knows_its_model(run):
    for option in ({"variant": "fp16"}, {"revision": "main"}, {"tokenizer": "x"}, {"prediction_type": "epsilon"}):
        with pytest.raises(InputError, match=f"leave {next(iter(option))} out"):
            opens(run, **option)


def test_sample_and_export_take_a_variant(trained, tmp_path, capsys):
    shutil.copytree(trained / "model", tmp_path / "model")
    for component in ("text_encoder", "unet", "vae"):
        file = folders.weights(tmp_path / "model", component)
        file.rename(file.with_suffix(".fp16.safetensors"))
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "plain")]) == 2
    assert "variant=fp16" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "plain"), "--variant=fp16"]) == 0
    found = dbx.load_pretrained(tmp_path / "plain").params["unet"]["conv_in"]["bias"]
    np.testing.assert_array_equal(found, dbx.load_pretrained(trained / "model").params["unet"]["conv_in"]["bias"])
