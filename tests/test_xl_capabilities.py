# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Whatever is there for Stable Diffusion is there for XL: few runs, each with many things in it."""

import json

import jax
import numpy as np
import pytest

import dreambooth_jax as dbx
from dreambooth_jax.cli import main
from dreambooth_jax.config import load_config
from dreambooth_jax.target import Target
from dreambooth_jax.trainer.members import run_group
from tests.assessment.towers import save_dino
from tests.members.groups import LORA, assert_as_alone, draw_pictures, members
from tests.runs import draw_photos, tiny_config, weights
from tests.xl import written

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

pytestmark = [
    *(pytest.mark.parity, pytest.mark.slow, pytest.mark.usefixtures("one_device")),
    *(pytest.mark.filterwarnings(f"ignore:.*:{kind}") for kind in ("ResourceWarning", "FutureWarning", "UserWarning")),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with a model in it."""
    root = tmp_path_factory.mktemp("xl")
    written(root / "model")
    return root


@pytest.fixture(scope="module")
def pipe(root):
    return dbx.load_pretrained(root / "model", target=Target.of(jax.devices()[:1]))


def config_of(root, folder, *more):
    options = [f"model.path={root / 'model'}", f"run_dir={root / folder}", "train.steps=3", "checkpoint.every=1"]
    options += ["prior.num_images=2", "samples.steps=2", "samples.num_images=1", "train.batch_size=2"]
    return tiny_config(root, *options, *more)


def test_tools_of_drawing(pipe):
    """A picture to start from, a mask, a second pass, an autoencoder in strips."""
    picture = np.random.default_rng(0).uniform(size=(16, 16, 3)).astype(np.float32)
    mask = np.zeros((16, 16), np.float32)
    mask[:8] = 1
    run = {"steps": 2, "output": "float32", "image": picture, "hires_scale": 1.5, "hires_by": "picture"}
    whole = pipe("a dog", **run)
    assert whole.shape == (1, 24, 24, 3)
    np.testing.assert_allclose(pipe("a dog", tiled=True, **run), whole, atol=1e-4)
    kept = pipe("a dog", steps=2, output="float32", image=picture, mask=mask, mask_blur=0)
    np.testing.assert_allclose(kept[0, 8:], picture[8:], atol=1e-6)
    assert np.abs(kept[0, :8] - picture[:8]).max() > 1e-2


@pytest.mark.parametrize("encoder", ["text_encoder"])
def test_two_subjects_with_one_encoder_alone(root, encoder):
    """Full training, the text encoder's in a phase of its own, of several subjects, taught by the model as it was."""
    for i, name in enumerate(("dog", "cat")):
        if not (root / name).exists():
            draw_photos(root / name, 2 + i)
    subjects = [f"data.concepts.{i}.instance_images={root / name}" for i, name in enumerate(("dog", "cat"))]
    options = [*subjects, f"adapter.text_encoder_targets={encoder}/.*", "text_encoder.stop=1", "prior.kind=teacher"]
    options += ["data.resolution=16", f"model.path={root / 'model'}", "prior.num_images=2", "prior.steps=2"]
    options += ["train.steps=2", "train.batch_size=8", "checkpoint.every=2", "samples.every=0"]

    folder = dbx.train(load_config("two_subjects", [f"run_dir={root / encoder}", *options])).folder
    assert {name.split("/")[0] for name in weights(folder, 2)} == {"unet", encoder}


def test_subjects_at_once_are_what_they_are_alone(root):
    """Their small matrices go through the loop over transformer blocks, a row of them for each block."""
    draw_pictures(root)
    settings = [*LORA, f"model.path={root / 'model'}"]
    group = members(root, "together", settings, dog=[], cat=[])
    assert all(one.result.finished for one in run_group(group, root / "groups"))
    (alone,) = members(root, "alone", settings, cat=[])
    assert_as_alone(root / "together" / "cat", alone.config)


PIVOTAL = [
    *("adapter.kind=pivotal", "tokens.vectors=2", "tokens.alone=1", "tokens.stop=2", "text_encoder.stop=-1"),
    *("adapter.rank=2", "adapter.dora=output", "optimizer.learning_rate=1e-2", "tokens.learning_rate=1e-1"),
    *("samples.every=3", "prior.weight=0"),
]


def test_new_words_then_lora_and_what_is_said_of_it(root, tmp_path, capsys):
    """A pivotal run: vectors of a word for both encoders, then DoRA of all networks; it is drawn, measured and examined
    as any run."""
    folder = dbx.train(config_of(root, "pivotal", *PIVOTAL)).folder
    before, after = weights(folder, 1), weights(folder, 3)
    words = {name for name in after if name.startswith("tokens/")}
    assert words == {"tokens/text_encoder", "tokens/text_encoder_2"}
    for name in words:
        assert np.abs(after[name] - before[name]).max() > 0
    assert {name.split("/")[0] for name in after} == {"tokens", "unet", "text_encoder", "text_encoder_2"}

    save_dino(tmp_path / "dino")
    (tmp_path / "prompts.txt").write_text("a {identifier} {class_noun}")
    towers = [f"prompts={tmp_path / 'prompts.txt'}", "num_images=1", "num_class_images=1", "steps=2"]
    towers += [f"evaluate.dino={tmp_path / 'dino'}"]
    assert main(["evaluate", str(folder), *towers]) == 0
    (source,) = json.loads((folder / "evaluation" / "scores.json").read_text())["sources"]
    assert np.isfinite(source["scores"]["DINO"]["mean"])
    capsys.readouterr()
    assert main(["doctor", str(folder), "json=true"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert "no_prior" in {finding["name"] for finding in told["findings"]}
