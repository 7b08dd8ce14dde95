# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Where members have their class images: together where they are made in one way, and else never."""

from itertools import permutations
from pathlib import Path

import pytest

from dreambooth_jax.config import load_config
from dreambooth_jax.config.concepts import concepts_of
from dreambooth_jax.errors import InputError
from dreambooth_jax.members.axes import take_axes
from dreambooth_jax.members.expand import expand
from dreambooth_jax.prepare.class_photos import class_folders
from tests.runs import draw_photos

BASE = ["--model.path=model", "--data.class_noun=dog", "--data.instance_images=photos"]


def folders(*options: str, own: str = "") -> dict[str, str | None]:
    """Of each member, by its name."""
    others, axes = take_axes([*BASE, *options, *([f"--prior.class_images={own}"] if own else [])])
    members, _ = expand(others, axes, folder=Path("runs/sweep"), within="members")
    return {member.name: member.config.prior.class_images for member in members}


def test_members_share_class_images_that_are_made_in_one_way():
    assert set(folders("--train.seed=0,1").values()) == {"runs/sweep/class_images/a_photo_of_a_dog"}
    assert [*folders("--data.class_noun=dog,cat").values()] == [
        "runs/sweep/class_images/a_photo_of_a_dog",
        "runs/sweep/class_images/a_photo_of_a_cat",
    ]
    assert len(set(folders("--prior.class_prompt=a dog,dogs", "--prior.class_images_prompt=a pet").values())) == 1
    assert [*folders("--train.seed=0,1", own="dogs").values()] == ["dogs", "dogs"]
    assert [*folders("--data.class_noun=dog,cat", own="x").values()] == ["x/a_photo_of_a_dog", "x/a_photo_of_a_cat"]
    assert folders("--prior.weight=0,1")["weight-0"] is None


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("prior.seed", ("0", "1", "5")),
        ("prior.guidance_scale", ("3", "5", "7.5")),
        ("data.resolution", ("512", "64", "64x128")),
        ("model.path", ("model", "other", "third")),
        ("prior.class_prompt", ("a dog", "a dog!", "A dog", "(dog)", "dog", "a_dog", "\N{DOG FACE}")),
    ],
)
def test_a_folder_is_called_after_what_it_holds_whatever_else_is_varied(key, values):
    whole = folders(f"--{key}={','.join(values)}")
    assert len({str(place).lower() for place in whole.values()}) == len(values)
    for some in permutations(values[:3], 2):
        assert folders(f"--{key}={','.join(some)}").items() <= whole.items()


def test_a_folder_of_ones_own_is_not_left_unused_in_silence(tmp_path):
    own = tmp_path / "dogs"
    draw_photos(own, 1)
    assert set(folders("--train.seed=0,1", own=str(own)).values()) == {str(own)}
    assert set(folders("--data.class_noun=dog,cat", "--prior.num_images=0", own=str(own)).values()) == {str(own)}
    with pytest.raises(InputError) as error:
        folders("--data.class_noun=dog,cat", own=str(own))
    assert "2 kinds of class images: move them into the folder of their kind, " in str(error.value)
    assert f"{own}/a_photo_of_a_dog or {own}/a_photo_of_a_cat" in str(error.value)
    (own / "a_photo_of_a_dog").mkdir()
    (own / "0.png").rename(own / "a_photo_of_a_dog" / "0.png")
    assert len(set(folders("--data.class_noun=dog,cat", own=str(own)).values())) == 2


def test_subjects_of_one_run_share_a_folder_only_with_the_same_prompt():
    prompts = {"a": "a dog", "b": "a dog!", "c": "a dog", "d": "a cat"}
    entries = ", ".join(
        f"{{identifier: {name}, class_noun: x, instance_images: y, class_prompt: '{prompt}'}}"
        for name, prompt in prompts.items()
    )
    config = load_config(None, ["--model.path=model", "--run_dir=r", f"--data.concepts=[{entries}]"])
    found = class_folders(config)
    assert found["a"] == found["c"] != found["b"]
    assert found["d"] == Path("r/class_images/a_cat")
    assert [*found] == [one.name for one in concepts_of(config)]
