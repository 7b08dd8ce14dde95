# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Whole runs that learn a word, as the shipped settings have them: train, be killed, go on, draw, export."""

import json

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import dreambooth_jax as dbx
from dreambooth_jax.cli import main
from dreambooth_jax.config import load_config
from dreambooth_jax.errors import InputError
from dreambooth_jax.runs import open_model
from dreambooth_jax.target import Target
from dreambooth_jax.trees import flatten
from tests.runs import MODEL, assert_same, cut_short, draw_photos, weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_device"),
    pytest.mark.filterwarnings("ignore:.*:ResourceWarning"),
]

DRAW = {"steps": 2, "height": 16, "width": 16, "output": "float32", "prompt_syntax": "a1111"}
PROMPT, NEGATIVE = "a photo of (sks:1.2) on the beach", "sks"
TINY = [
    *("train.steps=4", "train.batch_size=2", "checkpoint.every=1", "checkpoint.keep_last=9", "train.log_every=1"),
    *("data.class_noun=dog", "data.resolution=16", f"model.path={MODEL}"),
    *("prior.num_images=2", "prior.steps=2", "prior.batch_size=1"),
    *("samples.every=4", "samples.steps=2", "samples.num_images=1"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("words")
    draw_photos(root / "photos", 3)
    return root


def config_of(root, name, folder, *overrides):
    """Shipped settings at tiny size."""
    places = [
        f"data.instance_images={root / 'photos'}",
        f"run_dir={root / folder}",
        f"prior.class_images={root / 'dogs'}",
    ]
    return load_config(name, [*TINY, *places, *overrides])


@pytest.fixture(scope="module")
def inversion(root):
    return dbx.train(config_of(root, "sd15_textual_inversion", "inversion")).folder


PIVOTAL = ("tokens.alone=2", "tokens.stop=2", "adapter.rank=2", "adapter.alpha=1", "optimizer.learning_rate=1e-2")


@pytest.fixture(scope="module")
def pivotal(root):
    return dbx.train(config_of(root, "sd15_pivotal", "pivotal", *PIVOTAL)).folder


def picture(pipe, **options):
    return pipe(PROMPT, negative_prompt=NEGATIVE, **DRAW, **options)


def test_the_vectors_are_all_that_is_trained_and_kept(inversion):
    before, after = weights(inversion, 2), weights(inversion, 4)
    assert {name: leaf.shape for name, leaf in after.items()} == {"tokens/text_encoder": (4, 32)}
    assert (before["tokens/text_encoder"] != after["tokens/text_encoder"]).all(axis=1).all()
    rates = [json.loads(line) for line in (inversion / "metrics.jsonl").read_text().splitlines()]
    assert all(line["learning_rate/tokens"] == pytest.approx(2e-3) for line in rates)
    original, model = (flatten(one.params) for one in (dbx.load_pretrained(MODEL), open_model(str(inversion))))
    (new,) = model.keys() - original.keys()
    assert new == "text_encoder/text_model/embeddings/token_embedding/added"
    np.testing.assert_array_equal(model[new], after["tokens/text_encoder"])
    assert_same({name: np.asarray(model[name]) for name in original}, {n: np.asarray(x) for n, x in original.items()})


def test_words_come_first_and_then_lora_with_them(pivotal):
    middle, last = weights(pivotal, 2), weights(pivotal, 4)
    assert {name.split("/")[0] for name in last} == {"tokens", "unet"}
    for name, leaf in last.items():
        if name.startswith("tokens/"):
            np.testing.assert_array_equal(leaf, middle[name])
        else:
            assert name.endswith("lora_down") or not middle[name].any(), "no LoRA before its stretch"
            assert (leaf != middle[name]).any(), name
    lines = [json.loads(line) for line in (pivotal / "metrics.jsonl").read_text().splitlines()]
    rates = [{key: value for key, value in line.items() if key.startswith("learning_rate")} for line in lines]
    assert (
        rates == [{"learning_rate/tokens": pytest.approx(1e-3)}] * 2 + [{"learning_rate/unet": pytest.approx(1e-2)}] * 2
    )


@pytest.mark.parametrize(("name", "kill", "more"), [("sd15_textual_inversion", 2, ()), ("sd15_pivotal", 3, PIVOTAL)])
def test_killed_and_resumed_is_bit_identical(root, request, name, kill, more):
    whole = request.getfixturevalue("pivotal" if more else "inversion")
    killed = cut_short(whole, kill, root / f"killed-{name}")
    dbx.train(config_of(root, name, killed.name, *more, "samples.every=0"))
    assert_same(weights(whole, 4), weights(killed, 4))


def test_devices_do_not_matter(root, inversion, monkeypatch):
    monkeypatch.setattr(Target, "here", classmethod(lambda _: Target.of(jax.devices()[:2])))
    monkeypatch.setattr("dreambooth_jax.training.parallel.sharded.SHARDING_THRESHOLD", 64)
    options = ("train.parallel=fsdp", "samples.every=0")
    folder = dbx.train(config_of(root, "sd15_textual_inversion", "fsdp", *options)).folder
    (first,), (whole,), (found,) = (weights(*one).values() for one in ((inversion, 2), (inversion, 4), (folder, 4)))
    assert np.abs(found - whole).max() <= 1e-2 * np.abs(whole - first).max()
    for name, array in load_file(folder / "embedding.safetensors").items():
        assert name == "sks"
        np.testing.assert_array_equal(array, found)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (["data.templates=[]", "data.instance_prompt=a photo of a dog"], "no photo is called 'sks', which is to be"),
        (["tokens.init=photo of dog"], "is 3 tokens (photo</w>, of</w>, dog</w>) for 4 vectors"),
        (["tokens.words=a:b"], "'a:b' cannot be a new word"),
    ],
)
def test_what_cannot_be_learned_is_one_line(root, told, message):
    with pytest.raises(InputError) as caught:
        dbx.train(config_of(root, "sd15_textual_inversion", "wrong", *told))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module", params=["inversion", "pivotal"])
def run(request):
    """(kind, folder, a picture that it draws)"""
    folder = request.getfixturevalue(request.param)
    model = open_model(str(folder))
    return request.param, folder, picture(model.pipe, params=model.params)


def with_files(words, lora=(), model=MODEL):
    """The picture of a model with files."""
    other = open_model(str(model), lora=tuple(map(str, lora)))
    return picture(other.pipe.with_embeddings(words), params=None)


def test_its_files_draw_the_runs_own_picture(run):
    kind, folder, own = run
    lora = [folder / "lora.safetensors"] if kind == "pivotal" else []
    assert np.abs(own - with_files([folder / "embedding.safetensors"], lora)).max() < 1e-5
    assert np.abs(own - with_files([], lora)).max() > 1e-3
    assert (folder / "lora.safetensors").exists() == (kind == "pivotal")
    assert not (folder / "model").exists()
    with safe_open(folder / "embedding.safetensors", "np") as file:
        assert list(file.keys()) == ["sks"]
        said = file.metadata()
    assert said["modelspec.architecture"] == "stable-diffusion-v1/textual-inversion"
    assert said["modelspec.trigger_phrase"] == "sks"
    assert said["ss_base_model_version"] == "sd_v1"


def test_what_is_exported_draws_it_too(run, tmp_path):
    kind, folder, own = run
    assert main(["export", str(folder), str(tmp_path / "sks.safetensors"), "format=kohya"]) == 0
    word = tmp_path / ("sks.safetensors" if kind == "inversion" else "sks-embedding.safetensors")
    assert load_file(word).keys() == {"emb_params"}
    lora = [] if kind == "inversion" else [tmp_path / "sks.safetensors"]
    assert np.abs(own - with_files({"sks": word}, lora)).max() < 1e-5
    with safe_open(word, "np") as file, safe_open(folder / "embedding.safetensors", "np") as of_run:
        said, expected = file.metadata(), of_run.metadata()
    assert [said[name] for name in expected if name.startswith("ss_")] == [
        expected[name] for name in expected if name.startswith("ss_")
    ]
    assert (said["ss_num_train_images"], said["ss_unet_lr"]) == ("3", "None")
    assert said["ss_num_reg_images"] == ("0" if kind == "inversion" else "2")
    assert float(said["ss_learning_rate"]) == (2e-3 if kind == "inversion" else 1e-3)
    assert main(["export", str(word), str(tmp_path / "again.safetensors")]) == 0
    (again,) = load_file(tmp_path / "again.safetensors").values()
    np.testing.assert_array_equal(again, load_file(word)["emb_params"])
    assert main(["export", str(folder), str(tmp_path / "model"), "format=safetensors"]) == 0
    drawn = with_files([tmp_path / "model" / "learned_embeds.safetensors"], model=tmp_path / "model")
    assert np.abs(own - drawn).max() < 1e-5
    assert "added" not in str(flatten(dbx.load_pretrained(tmp_path / "model").params).keys())


def test_a_loras_file_may_bring_the_word(pivotal, tmp_path):
    one = tmp_path / "both.safetensors"
    assert main(["export", str(pivotal), str(one), "bundle=true"]) == 0
    assert not (tmp_path / "both-embedding.safetensors").exists()
    names = {name for name in load_file(one) if name.startswith("bundle_emb.")}
    assert names == {"bundle_emb.sks.clip_l", "bundle_emb.sks.string_to_param.*"}
    model = open_model(str(pivotal))
    assert np.abs(picture(model.pipe, params=model.params) - with_files([], [one])).max() < 1e-5
    for library in ("torch", "diffusers", "peft"):
        pytest.importorskip(library)
    from tests.test_pipeline_parity import theirs

    theirs("sd15", double=False).load_lora_weights(str(pivotal / "lora.safetensors"))
    with pytest.raises(ValueError, match="Invalid LoRA checkpoint"):
        theirs("sd15", double=False).load_lora_weights(str(one))
