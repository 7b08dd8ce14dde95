# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import dreambooth_jax as dbx
from dreambooth_jax.cli import main
from tests.runs import MODEL, draw_photos

SETTINGS = [
    f"model.path={MODEL}",
    "data.class_noun=dog",
    "data.resolution=16",
    "prior.weight=0",
    "train.batch_size=8",
    "train.steps=1",
    "samples.every=0",
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return draw_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, photos):
    """One step through the command line."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", f"run_dir={folder}", f"data.instance_images={photos}", *SETTINGS]) == 0
    return folder


def refuse(capsys, *arguments):
    """The one line that wrong input gives."""
    assert main(list(arguments)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dreambooth-jax: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "'trian' is no verb, of which there are train, prior, plan, sample, export; did you mean train?"),
        ([], "say what to do: train, prior, plan, sample, export"),
        (["train", "nowhere.yaml"], "nowhere.yaml"),
        (["train", "train.stepz=4"], "unknown key train.stepz; did you mean train.steps?"),
        (["train", "train.steps=many"], "train.steps"),
        (["train", "train.steps=0"], "train.steps is 0"),
        (["plan", "data.class_noun=dog", "train.batch_size=4"], "model.path is empty"),
        (["plan", "data.class_noun=dog", "--devices", "0"], "--devices is 0"),
        (["train", "data.class_noun=dog", "data.resolution=500"], "data.resolution is 500"),
        (["train", "data.class_noun=dog", "train.batch_size=8"], "no pictures were given"),
        (["train", "data.class_noun="], "data.class_noun is empty"),
        (["train", "data.class_noun=dog", "data.identifier= "], "data.identifier is empty"),
        (["train", "data.class_noun=dog", "data.instance_prompt=a {thing}"], "unknown field {thing}"),
        (["prior", "data.class_noun=dog", "prior.weight=0"], "prior.weight is 0"),
        (["sample", "nowhere", "a dog"], "nowhere"),
        (["sample", str(MODEL)], "no prompt"),
        (["sample", str(MODEL), "a dog", "--stepz", "3"], "unknown key stepz; did you mean step"),
        (["sample", str(MODEL), "a dog", "--prompts_file", "nowhere.txt"], "nowhere.txt"),
        (["sample", str(MODEL), "a dog", "--step", "3"], "no run folder"),
        (["sample", str(MODEL), "a dog", "--height", "17"], "height = 17"),
        (["export", str(MODEL)], "out"),
    ],
)
def test_wrong_words_are_one_line_and_exit_code_2(capsys, arguments, message):
    assert message in refuse(capsys, *arguments)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m, p: [f.unlink() for f in p.iterdir()], "no usable picture; it holds nothing"),
        (lambda m, p: shutil.rmtree(p), "no such folder"),
        (lambda m, p: [f.write_bytes(b"x") for f in p.iterdir()], "no usable picture; left out: 0.png"),
        (lambda m, p: shutil.rmtree(m / "unet"), "unet"),
        (lambda m, p: (m / "vae" / "config.json").unlink(), "vae"),
        (lambda m, p: shutil.rmtree(m / "tokenizer"), "tokenizer"),
        (lambda m, p: shutil.rmtree(m), "no such folder"),
        (
            lambda m, p: (m / "unet" / "diffusion_flax_model.msgpack").write_bytes(
                (MODEL / "unet" / "diffusion_flax_model.msgpack").read_bytes()[:1000]
            ),
            "diffusion_flax_model.msgpack",
        ),
        (
            lambda m, p: (m / "unet" / "config.json").write_text(
                json.dumps(json.loads((MODEL / "unet" / "config.json").read_text()) | {"class_embed_type": "timestep"})
            ),
            "class_embed_type",
        ),
        (
            lambda m, p: (m / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "flow"}'),
            "prediction_type",
        ),
    ],
)
def test_wrong_files_are_one_line_and_exit_code_2(capsys, tmp_path, spoil, message):
    model, photos = tmp_path / "model", tmp_path / "photos"
    shutil.copytree(MODEL, model)
    draw_photos(photos)
    spoil(model, photos)
    settings = [*SETTINGS, f"model.path={model}", f"data.instance_images={photos}", f"run_dir={tmp_path / 'run'}"]
    assert message in refuse(capsys, "train", *settings)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_an_identifier_of_no_token_is_refused(capsys, tmp_path, photos):
    arguments = [*SETTINGS, f"data.instance_images={photos}", f"run_dir={tmp_path / 'run'}"]
    line = refuse(capsys, "train", *arguments, "data.identifier=<|endoftext|>")
    assert "is nothing to the tokenizer" in line


def test_a_run_folder_that_cannot_be_written_is_one_line(capsys, tmp_path, photos):
    (tmp_path / "file").write_text("")
    line = refuse(capsys, "train", *SETTINGS, f"data.instance_images={photos}", f"run_dir={tmp_path / 'file' / 'run'}")
    assert str(tmp_path / "file") in line


def test_sampling_a_run_writes_pictures_with_metadata_and_a_grid(run_folder, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a dog\n\na sks dog in the snow\n")
    arguments = ["sample", str(run_folder), "a sks dog", "--prompts_file", str(prompts), "--steps", "2", "--seed", "4"]
    assert main([*arguments, "--num_images", "2"]) == 0
    out = run_folder / "samples"
    assert capsys.readouterr().out.strip() == str(out / "grid.png")
    assert {path.name for path in out.iterdir()} == {"grid.png"} | {
        f"00{i}-seed{s}.png" for i in range(3) for s in (4, 5)
    }
    with Image.open(out / "002-seed5.png") as picture:
        assert picture.size == (16, 16)
        assert picture.text["prompt"] == "a sks dog in the snow"
        assert picture.text["model"] == f"{run_folder} at step 1"


def test_an_exported_run_gives_the_runs_pictures(run_folder, tmp_path):
    assert main(["export", str(run_folder), str(tmp_path / "model")]) == 0
    options = {"steps": 2, "height": 16, "width": 16}
    from_folder = dbx.load_pretrained(tmp_path / "model")(["a sks dog"], **options)
    assert (
        main(["sample", str(run_folder), "a sks dog", "--steps=2", "--num_images=1", f"--out={tmp_path / 'out'}"]) == 0
    )
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "000-seed0.png")), from_folder[0])


def test_a_missing_checkpoint_names_those_that_are_there(run_folder, capsys):
    assert "there are [1]" in refuse(capsys, "sample", str(run_folder), "a dog", "--step", "9")
    assert "ema_decay" in refuse(capsys, "sample", str(run_folder), "a dog", "--ema", "true")


def test_class_images_can_be_made_alone(tmp_path, capsys):
    settings = [*SETTINGS, "prior.weight=1", "prior.num_images=3", "prior.steps=2", "prior.batch_size=1"]
    assert main(["prior", *settings, f"run_dir={tmp_path}"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "class_images")
    assert len(list((tmp_path / "class_images").glob("*.png"))) == 3
