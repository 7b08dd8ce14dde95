# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from dreambooth_jax.config import SamplingConfig
from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.data.sources import load_images
from dreambooth_jax.errors import InputError
from dreambooth_jax.locks import locked
from dreambooth_jax.prepare.class_image_store import MANIFEST, Recipe, append_line, read_manifest, usable_pictures
from dreambooth_jax.prepare.class_images import ensure_class_images, restore_class_images
from tests.data.pictures import noise
from tests.prepare.fake import FakePipeline

RECIPE = Recipe(prompt="a photo of a dog", model="abc", sampling=SamplingConfig(height=16, width=16, steps=3))


def fill(folder, n, pipe=None, recipe=RECIPE, **options):
    pipe = pipe or FakePipeline()
    return ensure_class_images(pipe, folder, recipe, num_images=n, batch_size=4, **options), pipe


def test_the_folder_is_filled_from_consecutive_seeds(tmp_path):
    assert fill(tmp_path, 6, seed=10)[0] == 6
    assert usable_pictures(tmp_path) == [f"{i:06d}.png" for i in range(6)]
    lines = read_manifest(tmp_path)
    assert [line["seed"] for line in lines] == list(range(10, 16))
    assert lines[0] == {"file": "000000.png", "status": "kept", "seed": 10} | RECIPE.record()
    with Image.open(tmp_path / "000003.png") as picture:
        about = json.loads(picture.text["dreambooth_jax"])
        assert (about["prompt"], about["seed"]) == (RECIPE.prompt, 13)
        assert "Steps: 3" in picture.text["parameters"]


def test_a_full_folder_asks_nothing_of_the_model(tmp_path):
    fill(tmp_path, 6)
    count, pipe = fill(tmp_path, 6)
    assert (count, pipe.calls) == (6, [])


def test_two_runs_do_not_fill_one_folder_at_once(tmp_path):
    fill(tmp_path, 2)
    with locked(tmp_path):
        assert fill(tmp_path, 2)[0] == 2  # a full one is read by as many as want to
        with pytest.raises(InputError, match="in use by another run .* choose another prior.class_images"):
            fill(tmp_path, 6)
    assert fill(tmp_path, 6)[0] == 6


def test_broken_off_and_resumed_is_what_it_would_have_been(tmp_path):
    fill(tmp_path / "whole", 12)
    answers = iter([False, True])
    assert fill(tmp_path / "parts", 12, should_stop=lambda: next(answers))[0] == 4
    assert fill(tmp_path / "parts", 12)[0] == 12
    for name in usable_pictures(tmp_path / "whole"):
        np.testing.assert_array_equal(
            np.asarray(Image.open(tmp_path / "whole" / name)), np.asarray(Image.open(tmp_path / "parts" / name))
        )


def test_every_call_has_the_same_shape(tmp_path):
    _, pipe = fill(tmp_path, 6)
    assert [len(call["prompts"]) for call in pipe.calls] == [4, 4]


def test_black_and_duplicate_pictures_are_rejected_and_replaced(tmp_path):
    spoil = {1: "black", 2: 0}.get
    count, _ = fill(tmp_path, 6, FakePipeline(spoil))
    status = {line["seed"]: line["status"] for line in read_manifest(tmp_path)}
    assert count == 6
    assert status == {0: "kept", 1: "black", 2: "duplicate"} | {i: "kept" for i in range(3, 8)}
    assert "000001.png" not in usable_pictures(tmp_path)


def test_a_picture_that_is_deleted_with_its_line_is_replaced_by_a_new_one(tmp_path):
    fill(tmp_path, 4)
    (tmp_path / "000002.png").unlink()
    kept = [line for line in (tmp_path / MANIFEST).read_text().splitlines() if "000002" not in line]
    (tmp_path / MANIFEST).write_text("\n".join(kept) + "\n")
    restore(tmp_path, 4)
    assert fill(tmp_path, 4)[0] == 4
    assert usable_pictures(tmp_path) == ["000000.png", "000001.png", "000003.png", "000004.png"]


def restore(folder, n, pipe=None, recipe=RECIPE):
    pipe = pipe or FakePipeline()
    return restore_class_images(pipe, folder, recipe, num_images=n, batch_size=lambda: 4), pipe


DAMAGE = {
    "lost": lambda path: path.unlink(),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "empty": lambda path: path.write_bytes(b""),
    "no picture": lambda path: path.write_text("oops"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("names", [["000002.png"], ["000000.png", "000005.png"], [f"{i:06d}.png" for i in range(6)]])
def test_what_was_lost_or_damaged_is_made_again_bit_for_bit(tmp_path, damage, names, caplog):
    fill(tmp_path, 6, seed=7)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name in names:
        DAMAGE[damage](tmp_path / name)
    whole, pipe = restore(tmp_path, 6)
    assert whole
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert names[0] in caplog.text
    assert {len(call["seed"]) for call in pipe.calls} == {4}  # the shape that all others had
    assert fill(tmp_path, 6, seed=7)[1].calls == []


def test_a_whole_folder_is_not_touched(tmp_path):
    fill(tmp_path, 6)
    assert restore(tmp_path, 6)[1].calls == []


def test_only_what_is_needed_and_of_this_recipe_is_made_again(tmp_path):
    fill(tmp_path, 6)
    (tmp_path / "000005.png").unlink()
    assert restore(tmp_path, 4)[1].calls == []
    assert restore(tmp_path, 6, recipe=dataclasses.replace(RECIPE, prompt="a cat"))[1].calls == []
    assert not (tmp_path / "000005.png").exists()


def test_a_manifest_may_not_name_files_outside_its_folder(tmp_path):
    folder = tmp_path / "class"
    fill(folder, 2)
    record = json.loads((folder / MANIFEST).read_text().splitlines()[0])
    for name in ("../x.png", "/x.png", "sub/000009.png", "x.png"):
        append_line(folder, record | {"file": name, "seed": 50})
    with (folder / MANIFEST).open("ab") as file:
        for junk in (5, [], {}, {"file": "000001.png"}, record | {"seed": "1"}):
            file.write(json.dumps(junk).encode() + b"\n")
        file.write(b"\xff\xfe\n")
    restore(folder, 9)
    assert [path.name for path in tmp_path.iterdir()] == ["class"]
    assert usable_pictures(folder) == ["000000.png", "000001.png"]
    assert fill(folder, 3)[0] == 3


def test_another_seed_goes_on_with_its_own_seeds_and_the_next_names(tmp_path):
    fill(tmp_path, 4, seed=0)
    fill(tmp_path, 6, seed=100)
    fill(tmp_path, 8, seed=0)
    lines = read_manifest(tmp_path)
    assert [line["seed"] for line in lines] == [0, 1, 2, 3, 100, 101, 4, 5]
    assert usable_pictures(tmp_path) == [line["file"] for line in lines] == [f"{i:06d}.png" for i in range(8)]
    fake = FakePipeline()
    for line in lines:
        np.testing.assert_array_equal(
            np.asarray(Image.open(tmp_path / line["file"])), fake.picture(line["seed"], 16, 16)
        )


def test_the_owners_own_pictures_are_never_written_over(tmp_path, caplog):
    own = np.random.default_rng(99).integers(0, 256, (20, 20, 3)).astype(np.uint8)
    Image.fromarray(own).save(tmp_path / "000001.png")
    fill(tmp_path, 4)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "000001.png")), own)
    assert len(usable_pictures(tmp_path)) == 4
    assert "holds 1 pictures of your own; 3 more are made there" in caplog.text
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "000002.png").unlink()
    restore(tmp_path, 4)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_masks_beside_the_owners_pictures_are_no_class_images(tmp_path):
    for seed, name in enumerate(("a.png", "a-mask.png", "b.jpg", "b.mask.png", "c-mask.png")):
        noise(seed, 20, 20).save(tmp_path / name)
    assert usable_pictures(tmp_path) == ["a.png", "b.jpg", "c-mask.png"], "the last is of no picture"
    count, _ = fill(tmp_path, 5)
    assert count == 5
    photos = load_images(tmp_path, prompt="a dog", subject=Subject(identifier="", class_noun="dog"))
    assert [photo.name for photo in photos] == usable_pictures(tmp_path)
    assert len(photos) == 5


def test_the_owners_own_pictures_count(tmp_path):
    for i in range(3):
        Image.fromarray(np.random.default_rng(99 + i).integers(0, 256, (20, 20, 3)).astype(np.uint8)).save(
            tmp_path / f"mine{i}.jpg"
        )
    count, pipe = fill(tmp_path, 5)
    assert count == 5
    assert len(usable_pictures(tmp_path)) == 5
    assert len(pipe.calls) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "a cat"}, "prompt 'a photo of a dog', not 'a cat'"),
        ({"model": "xyz"}, "model"),
        ({"sampling": SamplingConfig(height=16, width=16, steps=9)}, "steps 3, not 9"),
        ({"sampling": SamplingConfig(height=16, width=16, steps=3, eta=0.5)}, "eta 0.0, not 0.5"),
    ],
)
def test_another_recipe_is_refused(tmp_path, change, message):
    fill(tmp_path, 2)
    with pytest.raises(InputError, match=message):
        fill(tmp_path, 4, recipe=dataclasses.replace(RECIPE, **change))


@pytest.mark.parametrize(
    ("change", "fits"), [({}, True), ({"eta": 0.5}, False), ({"width": 24}, False), ({"steps": 4}, False)]
)
def test_a_manifest_of_an_earlier_version_is_read_with_the_defaults_of_what_it_does_not_know(tmp_path, change, fits):
    """Once it had one size, and no eta."""
    recipe = dataclasses.replace(RECIPE, sampling=dataclasses.replace(RECIPE.sampling, **change))
    fill(tmp_path, 2)
    old = [line | {"size": 16} for line in read_manifest(tmp_path)]
    for line in old:
        for key in ("eta", "height", "width"):
            del line[key]
    (tmp_path / MANIFEST).write_text("".join(json.dumps(line) + "\n" for line in old))
    if fits:
        assert fill(tmp_path, 4, recipe=recipe)[0] == 4
    else:
        with pytest.raises(InputError, match="made with (eta 0.0|width 16|steps 3), not"):
            fill(tmp_path, 4, recipe=recipe)


def test_a_torn_line_of_a_killed_run_is_ended(tmp_path):
    fill(tmp_path, 4)
    with (tmp_path / MANIFEST).open("a") as file:
        file.write('{"file": "0000')
    fill(tmp_path, 6)
    assert [line["seed"] for line in read_manifest(tmp_path)] == list(range(6))


def test_a_model_that_only_makes_black_pictures_is_an_error(tmp_path):
    with pytest.raises(InputError, match="were all black"):
        fill(tmp_path, 3, FakePipeline(lambda seed: "black"))
