# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import json
import shutil
import signal
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

import dreambooth_jax as dbx
from dreambooth_jax import runs
from dreambooth_jax.cli import main
from dreambooth_jax.config import load_config, save_config
from dreambooth_jax.errors import InputError
from dreambooth_jax.metadata.ours import KEYWORD
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.prepare import batch_size
from dreambooth_jax.runs import with_absolute_model
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
        (
            ["trian"],
            "'trian' is no verb, of which there are train, sweep, prior, plan, sample, evaluate, doctor, export",
        ),
        ([], "say what to do: train, sweep, prior, plan, sample, evaluate, doctor, export"),
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
        (["sample", str(MODEL), ""], "a prompt is empty"),
        (["sample", "", "a dog"], "source"),
        (["sample", str(MODEL), "a dog", "num_images=0"], "num_images = 0"),
        (["sample", str(MODEL), "a dog", "--height", "0"], "height = 0"),
        (["sample", str(MODEL), "a dog", "height=100000"], "height = 100000"),
        (["sample", str(MODEL), "a dog", "out="], "out"),
        (["sample", str(MODEL), "a dog", "image=nowhere.png"], "nowhere.png: no such file"),
        (["sample", str(MODEL), "a dog", "outpaint_left=8"], "image = None: must be given where there is a mask"),
        (["sample", str(MODEL), "a dog", "strength=2"], "strength = 2.0: must be above 0 and at most 1"),
        (["sample", str(MODEL), "a dog", "seed=4294967295", "num_images=2"], "seeds end there"),
        (["sample", str(MODEL), "a dog", "--variant", "fp16"], "no weights of variant fp16"),
        (["export", str(MODEL), ""], "out"),
        (["sample", "~nobody-of-this-name/run", "a dog"], "~nobody-of-this-name/run"),
        (["sample", str(MODEL), "a dog", f"out={__file__}"], "cannot write to"),
        (["sample", str(MODEL), "a dog", f"out={__file__}/x"], "cannot write to"),
        (
            ["train", "data.class_noun=dog", "train.batch_size=4", "data.instance_images=~nobody-of-this-name/x"],
            "~nobody-of-this-name",
        ),
        (["train", "data.class_noun=dog", "run_dir=r", "model.path=r/model"], "where this run would write its own"),
        (["export", str(MODEL), "a", "b"], "'b' is one word too many"),
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
        about = json.loads(picture.text["dreambooth_jax"])
    assert about["prompt"] == "a sks dog in the snow"
    assert about["model"] == f"{run_folder} at step 1"


def test_an_exported_run_gives_the_runs_pictures(run_folder, tmp_path):
    assert main(["export", str(run_folder), str(tmp_path / "model")]) == 0
    options = {"steps": 2, "height": 16, "width": 16}
    from_folder = dbx.load_pretrained(tmp_path / "model")(["a sks dog"], **options)
    assert (
        main(["sample", str(run_folder), "a sks dog", "--steps=2", "--num_images=1", f"--out={tmp_path / 'out'}"]) == 0
    )
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "000-seed0.png")), from_folder[0])


def test_a_run_exported_as_a_single_file_gives_its_pictures(run_folder, tmp_path):
    single = tmp_path / "dog.safetensors"
    assert main(["export", str(run_folder), str(single), "format=ldm"]) == 0
    shutil.copytree(run_folder / "model" / "tokenizer", tmp_path / "tokenizer")
    for name, source in (("run", run_folder), ("file", single)):
        words = ["sample", str(source), "a sks dog", "steps=2", "num_images=1", "height=16", "width=16"]
        assert main([*words, f"out={tmp_path / name}"]) == 0
    run, file = (np.asarray(Image.open(tmp_path / name / "000-seed0.png")) for name in ("run", "file"))
    np.testing.assert_array_equal(run, file)


@pytest.mark.slow
def test_a_run_may_start_from_a_single_file(run_folder, photos, tmp_path, monkeypatch, capsys):
    """Given by a relative path; it is resumed, and its checkpoint is sampled, from elsewhere."""
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run_folder), "base.safetensors", "format=ldm"]) == 0
    shutil.copytree(run_folder / "model" / "tokenizer", "words")
    settings = [one for one in SETTINGS if not one.startswith("model.path")]
    words = ["run_dir=run", f"data.instance_images={photos}", "model.path=base.safetensors", "model.tokenizer=words"]
    assert main(["train", *words, *settings]) == 0
    assert main(["train", *words, *settings, "train.steps=2"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["sample", "../run", "a sks dog", "steps=1", "num_images=1", "out=out"]) == 0
    other = tmp_path / "base.safetensors"
    main(["export", "embedded", str(other), "format=ldm"])
    assert "the tokenizer in" in refuse(capsys, "sample", "../run", "a dog")


def copy_of(run_folder, tmp_path, **changes):
    """A run with other settings, which its checkpoint does not know of."""
    copied = tmp_path / "runs" / "dog"
    shutil.copytree(run_folder, copied)
    shutil.rmtree(copied / "samples", ignore_errors=True)
    config = load_config(copied / "config.yaml")
    groups = {name: replace(getattr(config, name), **values) for name, values in changes.items()}
    save_config(copied / "config.yaml", replace(config, **groups))
    return copied


def settings_of(folder, name="000-seed0.png"):
    with Image.open(folder / "samples" / name) as picture:
        return json.loads(picture.text["dreambooth_jax"])


def test_a_run_is_sampled_as_its_own_samples_unless_told_otherwise(run_folder, tmp_path):
    run = copy_of(
        run_folder, tmp_path, samples={"steps": 3, "guidance_scale": 2.5, "eta": 0.5, "negative_prompt": "😀"}
    )
    assert main(["sample", str(run), "a dog", "num_images=1"]) == 0
    expected = {"steps": 3, "guidance_scale": 2.5, "eta": 0.5, "negative_prompt": "😀"}
    assert expected.items() <= settings_of(run).items()
    assert main(["sample", str(run), "a dog", "num_images=1", "guidance_scale=7.5", "sampler=euler"]) == 0
    told = expected | {"guidance_scale": 7.5, "eta": 0.0, "sampler": "euler"}
    assert told.items() <= settings_of(run, "001-seed0.png").items()
    assert {path.name for path in (run / "samples").glob("grid*")} == {"grid.png", "grid-2.png"}


@pytest.mark.slow
def test_a_picture_to_start_from(run_folder, tmp_path):
    """Drawn in its own size, of which the run's says nothing; what it says is in the file."""
    file = tmp_path / "given.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 12, 3), np.uint8)).save(file)
    words = ["sample", str(run_folder), "a dog", "num_images=1", "steps=4", f"image={file}", f"out={tmp_path}"]
    assert main([*words, "strength=0.5"]) == 0
    assert main(words) == 0
    with Image.open(tmp_path / "000-seed0.png") as half, Image.open(tmp_path / "001-seed0.png") as more:
        assert half.size == (12, 20)
        assert json.loads(half.text[KEYWORD])["strength"] == 0.5
        assert json.loads(more.text[KEYWORD])["strength"] == 0.75
        assert not np.array_equal(np.asarray(half), np.asarray(more))
    assert main([*words, "outpaint_right=4", "mask_blur=0"]) == 0
    with Image.open(file) as given, Image.open(tmp_path / "002-seed0.png") as wider:
        np.testing.assert_array_equal(np.asarray(wider)[:, :12], np.asarray(given))
        assert json.loads(wider.text[KEYWORD])["strength"] == 1.0
        assert json.loads(wider.text[KEYWORD])["outpaint_right"] == 4


def test_ctrl_c_keeps_the_pictures_that_are_made(run_folder, tmp_path, monkeypatch, caplog):
    run = copy_of(run_folder, tmp_path, samples={"steps": 1})
    monkeypatch.setattr(batch_size, "CPU_BATCH", 1 / jax.local_device_count())  # one picture at once
    make = Pipeline.__call__
    calls = []

    def make_two(self, prompts, **options):
        calls.append(prompts)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return make(self, prompts, **options)

    monkeypatch.setattr(Pipeline, "__call__", make_two)
    with caplog.at_level("INFO"):
        assert main(["sample", str(run), "a dog", "num_images=3000"]) == 130
    assert {path.name for path in (run / "samples").iterdir()} == {"000-seed0.png", "000-seed1.png"}
    assert f"2 of 3000 pictures are made; they are in {run / 'samples'}" in caplog.text


@pytest.mark.slow
def test_a_grid_of_very_many_pictures_stays_small(run_folder, tmp_path, monkeypatch):
    run = copy_of(run_folder, tmp_path, samples={"steps": 1})
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"{i} dogs" for i in range(20)))
    assert main(["sample", str(run), f"prompts_file={prompts}", "num_images=17", "guidance_scale=1"]) == 0
    assert len(list((run / "samples").glob("???-seed*.png"))) == 20 * 17
    with Image.open(run / "samples" / "grid.png") as grid:
        assert grid.width < 17 * 24 + 500
        assert grid.height < 17 * 60


@pytest.mark.parametrize("saved_as", ["absolute", "relative"])
def test_a_run_on_a_relative_model_is_sampled_from_anywhere(run_folder, tmp_path, monkeypatch, saved_as):
    shutil.copytree(MODEL, tmp_path / "models" / "tiny")
    run = copy_of(run_folder, tmp_path, model={"path": "models/tiny"}, samples={"steps": 1})
    config = replace(load_config(run / "config.yaml"), run_dir="runs/dog")  # as runs of 0.1.0 wrote it
    monkeypatch.chdir(tmp_path)
    save_config(run / "config.yaml", config if saved_as == "relative" else with_absolute_model(config))
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "models" / "tiny").mkdir(parents=True)  # a folder of the same name, which is not meant
    monkeypatch.chdir(elsewhere)
    assert main(["sample", "../runs/dog", "a dog", "num_images=1", "--out", "pictures"]) == 0
    assert (elsewhere / "pictures" / "000-seed0.png").exists()


def test_a_run_saves_where_its_model_is(photos, tmp_path, monkeypatch):
    shutil.copytree(MODEL, tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    for model, expected in (("tiny", str(tmp_path / "tiny")), ("embedded", "embedded"), ("org/name", "org/name")):
        (tmp_path / "embedded").mkdir(exist_ok=True)
        assert with_absolute_model(load_config(None, [f"model.path={model}"])).model.path == expected


def test_home_is_home(run_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert main(["sample", str(run_folder), "a dog", "steps=1", "num_images=1", "out=~/pictures"]) == 0
    assert (tmp_path / "home" / "pictures" / "grid.png").exists()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_prompts_saved_on_windows(run_folder, tmp_path, encoding):
    run = copy_of(run_folder, tmp_path)
    (tmp_path / "prompts.txt").write_bytes("a dog 😀\r\n\r\na cat\r\n".encode(encoding))
    assert main(["sample", str(run), f"prompts_file={tmp_path / 'prompts.txt'}", "steps=1", "num_images=1"]) == 0
    assert settings_of(run)["prompt"] == "a dog 😀"
    assert settings_of(run, "001-seed0.png")["prompt"] == "a cat"


def test_a_run_has_its_own_variant_and_revision(run_folder, capsys):
    line = refuse(capsys, "export", str(run_folder), "out", "revision=main")
    assert "is a run folder, which knows its model" in line


def test_the_variant_is_read(tmp_path, monkeypatch):
    """Of a model whose weights are there in a variant alone, and as the plain ones of another model."""
    seen = []
    monkeypatch.setattr(runs, "load_pretrained", lambda source, **options: seen.append(options) or exit_here())

    def exit_here():
        raise InputError("far enough")

    for verb, word in (("sample", "a dog"), ("export", str(tmp_path / "out"))):
        words = ["vae=other", "tokenizer=words", "prediction_type=sample"]
        assert main([verb, str(MODEL), word, "variant=fp16", "--revision", "v2", *words]) == 2
    expected = {"variant": "fp16", "revision": "v2", "vae": "other", "tokenizer": "words", "prediction_type": "sample"}
    assert all(expected.items() <= options.items() for options in seen)
    assert len(seen) == 2


def test_the_public_names_are_shown():
    assert {"train", "load_config", "load_pretrained", "plan", "save_pretrained", "Pipeline"} <= set(dir(dbx))


def test_a_missing_checkpoint_names_those_that_are_there(run_folder, capsys):
    assert "there are [1]" in refuse(capsys, "sample", str(run_folder), "a dog", "--step", "9")
    assert "ema_decay" in refuse(capsys, "sample", str(run_folder), "a dog", "--ema", "true")


def test_class_images_can_be_made_alone(tmp_path, capsys):
    settings = [*SETTINGS, "prior.weight=1", "prior.num_images=3", "prior.steps=2", "prior.batch_size=1"]
    assert main(["prior", *settings, f"run_dir={tmp_path}"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "class_images")
    assert len(list((tmp_path / "class_images").glob("*.png"))) == 3


def test_ctrl_c_while_class_images_are_made_ends_with_130_and_keeps_them(tmp_path, monkeypatch, capsys):
    settings = [*SETTINGS, "prior.weight=1", "prior.num_images=24", "prior.steps=1", "prior.batch_size=1"]
    make = Pipeline.__call__

    def make_and_press(self, prompts, **options):
        signal.raise_signal(signal.SIGINT)
        return make(self, prompts, **options)

    monkeypatch.setattr(Pipeline, "__call__", make_and_press)
    assert main(["prior", *settings, f"run_dir={tmp_path}"]) == 130
    assert capsys.readouterr().out == ""
    assert len(list((tmp_path / "class_images").glob("*.png"))) == jax.local_device_count()
