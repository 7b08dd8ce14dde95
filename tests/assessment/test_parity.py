# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``evaluate`` from the command line to its JSON, with random towers, against the same computed by hand in PyTorch."""

import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from dreambooth_jax.cli import main
from tests.assessment.towers import ByHand, save_clip, save_dino
from tests.runs import draw_photos
from tests.test_earlier_runs import ARCHIVE

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

TEMPLATES = ["a {identifier} {class_noun} in the snow", "a red {identifier} {class_noun}"]
TEXTS = ["a dog in the snow", "a red dog"]


def read(folder):
    """Name -> mean and interval of the only source."""
    (source,) = json.loads((folder / "scores.json").read_text())["sources"]
    return source["scores"]


def pictures_of(folder):
    return [np.asarray(Image.open(file).convert("RGB")) for file in sorted(folder.glob("*-*.png"))]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Photos, and pictures that another tool made: three of each prompt."""
    folder = tmp_path_factory.mktemp("made")
    draw_photos(folder / "photos", 3)
    (folder / "pictures").mkdir()
    r = np.random.default_rng(0)
    for row in range(2):
        for number in range(3):
            noise = Image.fromarray(r.integers(0, 256, (6, 8, 3), dtype=np.uint8))
            noise.resize((56, 42), Image.Resampling.BICUBIC).save(folder / "pictures" / f"{row}-{number}.png")
    (folder / "prompts.txt").write_text("\n".join(TEMPLATES))
    return folder


def call(made, out, *towers):
    arguments = ["--photos", f"{made / 'photos'}", "--prompts", f"{made / 'prompts.txt'}", "class_noun=dog"]
    assert main(["evaluate", str(made / "pictures"), *arguments, f"out={out}", *towers]) == 0
    return read(out)


def test_pictures_made_elsewhere(made, tmp_path):
    hand = ByHand(dino=save_dino(tmp_path / "dino"), clip=save_clip(tmp_path / "clip"))
    towers = (f"evaluate.dino={tmp_path / 'dino'}", f"evaluate.clip={tmp_path / 'clip'}")
    found = call(made, tmp_path / "out", *towers)
    pictures, photos = (
        pictures_of(made / "pictures"),
        [np.asarray(Image.open(file)) for file in sorted((made / "photos").iterdir())],
    )
    likeness = {name: of(pictures) @ of(photos).T for name, of in (("DINO", hand.of_dino), ("CLIP-I", hand.of_clip))}
    texts = hand.of_texts(np.repeat(TEXTS, 3))
    expected = {name: cosines.mean().item() for name, cosines in likeness.items()}
    expected["CLIP-T"] = (hand.of_clip(pictures) * texts).sum(1).mean().item()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert abs(found[name]["mean"] - value) < 1e-5, name


@pytest.mark.slow
def test_variety_of_pictures_made_elsewhere(made, tmp_path):
    from tests.models.test_lpips_parity import Reference

    torch.manual_seed(0)
    net = Reference("alex").eval()
    torch.save(net.state_dict(), tmp_path / "alex.pth")
    found = call(made, tmp_path / "out", f"evaluate.lpips={tmp_path / 'alex.pth'}")
    pictures, hand = pictures_of(made / "pictures"), ByHand(lpips=net)
    expected = np.mean([hand.pairs(pictures[:3]), hand.pairs(pictures[3:])])
    assert found.keys() == {"DIV"}
    assert abs(found["DIV"]["mean"] - expected) < 1e-5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:ResourceWarning")
def test_a_run_and_the_model_that_it_began_with(tmp_path, monkeypatch, one_device):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path / "earlier_run")
    (tmp_path / "prompts.txt").write_text("\n".join(TEMPLATES))
    (tmp_path / "other.txt").write_text("a house\na tree in the snow")
    net = save_dino(tmp_path / "dino")
    arguments = [f"prompts={tmp_path / 'prompts.txt'}", f"other_prompts={tmp_path / 'other.txt'}"]
    arguments += ["num_images=2", "num_class_images=4", "steps=2", f"evaluate.dino={tmp_path / 'dino'}"]
    assert main(["evaluate", "run", *arguments]) == 0
    out = tmp_path / "earlier_run" / "run" / "evaluation"
    found = read(out)
    own = {name: pictures_of(out / "run" / name) for name in ("subject", "class", "other")}
    assert [len(some) for some in own.values()] == [4, 4, 4]
    photos = [
        np.asarray(Image.open(file).convert("RGB")) for file in sorted((tmp_path / "earlier_run/photos").iterdir())
    ]
    of = ByHand(dino=net).of_dino
    before, after = of(pictures_of(out / "base")), of(own["other"])
    expected = {
        "DINO": (of(own["subject"]) @ of(photos).T).mean().item(),
        "PRES": (of(own["class"]) @ of(photos).T).mean().item(),
        "drift": ((1 - (before * after).sum(1)) / 2).mean().item(),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert abs(found[name]["mean"] - value) < 1e-5, name
    assert found["drift"]["mean"] > 1e-6  # it was trained

    made = {file: file.stat().st_mtime_ns for file in out.rglob("*.png")}
    lines = (out / "run" / "scores.jsonl").read_text()
    next(iter(made)).unlink()  # one picture is lost, and no score
    assert main(["evaluate", "run", *arguments]) == 0
    again = {file: file.stat().st_mtime_ns for file in out.rglob("*.png")}
    assert again.keys() == made.keys()
    assert sum(again[file] != made[file] for file in made) == 1
    assert (out / "run" / "scores.jsonl").read_text() == lines  # it came out the same, so nothing is measured again
    assert read(out) == found
