# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a run with an adapter leaves, and what the verb export makes of it."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

import dreambooth_jax as dbx
from dreambooth_jax.cli import main
from dreambooth_jax.config import load_config
from dreambooth_jax.runs import open_model
from dreambooth_jax.trees import flatten
from dreambooth_jax.weights.adapters import applied, read_adapter
from tests.adapters.test_lora_runs import SETTINGS
from tests.runs import MODEL, draw_photos, weights

pytestmark = [pytest.mark.usefixtures("one_device"), pytest.mark.filterwarnings("ignore:.*:ResourceWarning")]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("exported")
    photos = draw_photos(root / "photos")
    places = [f"run_dir={root / 'dog'}", f"data.instance_images={photos}"]
    settings = [
        "adapter.alpha=1",
        "adapter.targets=attn-mlp-conv",
        "adapter.conv_rank=3",
        "optimizer.learning_rate=1e-2",
    ]
    return load_config(None, [*SETTINGS, *places, *settings])


@pytest.fixture(scope="module")
def run(config):
    """What came of a whole run."""
    return dbx.train(config)


@pytest.fixture(scope="module")
def whole(run):
    """Parameters of the model with what was trained."""
    return open_model(str(run.folder)).params


def assert_near(found, expected, atol=1e-6):
    found, expected = flatten(found), flatten(expected)
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_allclose(found[name], leaf, atol=atol, err_msg=name)


def moved(params):
    before = flatten(dbx.load_pretrained(MODEL).params)
    return {name for name, leaf in flatten(params).items() if (np.asarray(leaf) != before[name]).any()}


@pytest.mark.slow
def test_a_run_ends_with_the_file_of_what_it_trained(run, whole):
    assert run.finished
    assert (run.adapter, run.model) == (run.folder / "lora.safetensors", None)
    assert not (run.folder / "model").exists()
    assert json.loads((run.folder / "exported.json").read_text())["files"] == ["lora.safetensors"]
    adapter = read_adapter(run.adapter)
    trained = {
        f"{network}/{path}/{name}": tensor
        for network, layers in adapter.networks.items()
        for path, module in layers.items()
        for name, tensor in module.tensors.items()
    }
    kept = weights(run.folder, 4)
    assert trained.keys() == {*kept, *(f"{name.rpartition('/')[0]}/alpha" for name in kept)}
    for name, leaf in kept.items():
        np.testing.assert_array_equal(trained[name], leaf)
    assert_near(applied(dbx.load_pretrained(MODEL).params, adapter), whole)
    assert len(moved(whole)) == len(kept) // 2


@pytest.mark.slow
def test_the_file_says_what_it_is(run, config):
    with safe_open(run.adapter, "np") as opened:
        said = opened.metadata()
    assert (said["ss_v2"], said["ss_base_model_version"]) == ("False", "sd_v1")
    assert (said["ss_network_module"], said["ss_network_dim"], said["ss_network_alpha"]) == ("networks.lora", "2", "1")
    assert json.loads(said["ss_network_args"]) == {"conv_dim": "3", "conv_alpha": "1.5"}
    assert json.loads(said["ss_tag_frequency"]) == {"1_sks dog": {"sks dog": 5}}
    assert said["ss_resolution"] == "(16, 16)"
    assert (said["ss_steps"], said["ss_num_train_images"], said["ss_num_reg_images"]) == ("4", "5", "0")
    assert (said["ss_unet_lr"], said["ss_text_encoder_lr"]) == ("0.01", "0.01")
    assert said["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert said["modelspec.trigger_phrase"] == "sks dog"
    assert said["modelspec.resolution"] == "16x16"
    assert len(said["sshs_model_hash"]) == 64
    assert all(isinstance(value, str) and value for value in said.values())


@pytest.mark.slow
def test_the_same_command_again_says_that_it_is_finished(run, config, caplog):
    before = run.adapter.stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        again = dbx.train(config)
    assert again == run
    assert f"this run is finished: {run.adapter}" in caplog.text
    assert run.adapter.stat().st_mtime_ns == before


def export(*words):
    assert main(["export", *map(str, words)]) == 0


@pytest.mark.slow
def test_exporting_a_run_to_a_file_writes_the_adapter(run, tmp_path):
    export(run.folder, tmp_path / "lora.safetensors")
    assert (tmp_path / "lora.safetensors").read_bytes() == run.adapter.read_bytes(), "all that it says of itself, too"
    export(run.folder, tmp_path / "early.safetensors", "step=2", "format=peft", "dtype=float16")
    early = read_adapter(tmp_path / "early.safetensors")
    assert early.dialects == {"peft"}
    path = "mid_block/attentions_0/proj_in"
    expected = weights(run.folder, 2)[f"unet/{path}/lora_up"].astype(np.float16)
    np.testing.assert_array_equal(early.networks["unet"][path].tensors["lora_up"], expected)


@pytest.mark.slow
def test_exporting_a_run_to_a_folder_or_as_one_file_merges(run, whole, tmp_path):
    export(run.folder, tmp_path / "folder")
    assert_near(dbx.load_pretrained(tmp_path / "folder").params, whole)
    export(run.folder, tmp_path / "one.safetensors", "format=ldm")
    assert_near(dbx.load_pretrained(tmp_path / "one.safetensors", tokenizer=MODEL / "tokenizer").params, whole)


@pytest.mark.slow
def test_adapters_are_merged_into_any_model(run, whole, tmp_path):
    export(MODEL, tmp_path / "half", "--lora", f"{run.adapter}:0.25", "--lora", f"{run.adapter}:0.75")
    assert_near(dbx.load_pretrained(tmp_path / "half").params, whole, atol=1e-5)
    export(run.folder, tmp_path / "none", f"lora={run.adapter}:-1")
    assert_near(dbx.load_pretrained(tmp_path / "none").params, dbx.load_pretrained(MODEL).params, atol=1e-5)


@pytest.mark.slow
def test_a_file_goes_from_one_form_to_another_and_back(run, tmp_path):
    export(run.adapter, tmp_path / "peft.safetensors", "format=peft")
    export(tmp_path / "peft.safetensors", tmp_path / "kohya.safetensors")
    assert (tmp_path / "kohya.safetensors").read_bytes() == run.adapter.read_bytes()


@pytest.mark.slow
def test_the_nearest_lora(run, whole, tmp_path, caplog):
    """Of the rank that was trained it is the same change; of less, what is missing is told."""
    export(run.folder, tmp_path / "a.safetensors", "rank=3")
    base = dbx.load_pretrained(MODEL).params
    assert_near(applied(base, read_adapter(tmp_path / "a.safetensors")), whole, atol=1e-5)
    with caplog.at_level(logging.INFO):
        export(MODEL, tmp_path / "b.safetensors", f"lora={run.adapter}", "rank=1")
    assert "all that changed" in caplog.text
    found = read_adapter(tmp_path / "b.safetensors")
    assert {
        module.tensors["lora_up"].shape[-2] for layers in found.networks.values() for module in layers.values()
    } == {1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{model}", "{out}/a.safetensors", "format=kohya"], "format = kohya is for adapters"),
        (["{model}", "{out}/a.safetensors", "rank=4"], "is as it was: rank=4 is for what was trained"),
        (["{file}", "{out}/a.safetensors", "format=ldm"], "format = ldm is for whole models, this is an adapter"),
        (["{file}", "{out}/a.safetensors", "rank=4"], "is an adapter: for the plain LoRA that is nearest"),
        (["{file}", "{out}/a"], "an adapter is one file, whose name ends in .safetensors"),
        (["{model}", "{out}/a", "lora={model}"], "no such file"),
        (["{model}", "{out}/a", "lora={file}:inf"], "say FILE or FILE:WEIGHT"),
    ],
)
def test_what_cannot_be_is_one_line(run, tmp_path, capsys, words, message):
    places = {"model": MODEL, "file": run.adapter, "out": tmp_path}
    assert main(["export", *(word.format(**places) for word in words)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dreambooth-jax:")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["export.format=kohya"], "export.format is kohya, which is for adapters"),
        (["export.format=peft"], "export.format is peft, which is for adapters"),
        (["export.format=peft", "adapter.kind=loha"], "export.format is peft, which has no form for adapter.kind=loha"),
        (["export.format=peft", "adapter.kind=lora", "adapter.dora=input"], "export.format=kohya has it"),
        (["export.format=kohya", "adapter.kind=lora", "adapter.dora=output"], "export.format=peft has it"),
    ],
)
def test_a_form_that_a_run_could_not_end_with_is_refused_before_it_starts(tmp_path, capsys, settings, message):
    words = [f"run_dir={tmp_path / 'run'}", f"model.path={MODEL}", f"data.instance_images={tmp_path}"]
    assert main(["train", *words, "data.class_noun=dog", *settings]) == 2
    assert message in capsys.readouterr().err
    assert not Path(tmp_path / "run").exists()
