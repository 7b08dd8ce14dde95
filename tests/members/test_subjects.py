# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
from pathlib import Path
from unicodedata import normalize

import pytest
from PIL import Image

from dreambooth_jax.errors import InputError
from dreambooth_jax.members.expand import expand
from dreambooth_jax.members.subjects import classes_of, noun_of, subjects_axis

DATA_SET = (
    "Classes\n\nsubject_name,class\nbackpack_dog,backpack\ndog6,dog\n\nPrompts\n\nObject Prompts\n\nprompt_list = [\n"
)


def folder(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / name / "0.png")
    return root


def members(place, *options: str, class_noun=""):
    options = ["--model.path=model", *options]
    found, _ = expand(options, [subjects_axis(str(place), class_noun=class_noun)], folder=Path("r"), within="subjects")
    return {one.name: one.config for one in found}


def test_classes_are_in_the_names_of_folders(tmp_path):
    found = members(folder(tmp_path, "dog6", "cat", ".ipynb_checkpoints"))
    assert {name: config.data.class_noun for name, config in found.items()} == {"dog6": "dog", "cat": "cat"}
    assert found["dog6"].data.instance_images == str(tmp_path / "dog6")
    assert found["dog6"].run_dir == "r/subjects/dog6"
    assert found["cat"].data.subjects is None


@pytest.mark.parametrize(
    ("name", "noun"), [("dog6", "dog"), ("rc_car", "rc car"), ("cat-02", "cat"), ("3 dogs", "dogs"), ("001", "")]
)
def test_what_a_name_says(name, noun):
    assert noun_of(name) == noun


def test_classes_of_the_data_set(tmp_path):
    (folder(tmp_path, "dog6", "backpack_dog", "teapot") / "prompts_and_classes.txt").write_text(DATA_SET)
    assert {name: config.data.class_noun for name, config in members(tmp_path).items()} == {
        "dog6": "dog",
        "backpack_dog": "backpack",
        "teapot": "teapot",
    }
    assert classes_of(DATA_SET) == {"backpack_dog": "backpack", "dog6": "dog"}
    assert classes_of("nothing of the kind") == {}


def test_one_class_for_all_who_are_named(tmp_path):
    found = members(folder(tmp_path, "anna", "ben"), class_noun="person")
    assert {config.data.class_noun for config in found.values()} == {"person"}


def test_a_list_says_all_of_each(tmp_path):
    folder(tmp_path, "a", "b")
    (tmp_path / "list.yaml").write_text(
        "- {name: rex, photos: a, identifier: zwx, class_noun: dog, train: {steps: 7}, prior.weight: 0.5}\n"
        f"- {{photos: {tmp_path / 'b'}, class_noun: cat}}\n"
    )
    found = members(tmp_path / "list.yaml", "--train.steps=9")
    rex = found["rex"]
    assert (rex.data.identifier, rex.data.class_noun, rex.train.steps, rex.prior.weight) == ("zwx", "dog", 7, 0.5)
    assert rex.data.instance_images == str(tmp_path / "a")
    assert (found["b"].data.identifier, found["b"].data.class_noun, found["b"].train.steps) == ("sks", "cat", 9)


def test_a_list_in_the_folder_says_classes(tmp_path):
    (folder(tmp_path, "001", "002") / "subjects.yaml").write_text("001: dog\n002: {class_noun: cat, train.seed: 3}\n")
    found = members(tmp_path)
    assert found["001"].data.class_noun == "dog"
    assert (found["002"].data.class_noun, found["002"].train.seed) == ("cat", 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "nowhere", "no such folder of folders of photos"),
        (lambda root: root, "has no subjects"),
        (lambda root: folder(root, "dog") / "dog", "holds photos, not folders of photos"),
        (lambda root: ((root / "dog").mkdir(), root)[1], "dog holds no photos"),
        (lambda root: folder(root, "001"), "does not say what its subject is"),
        (lambda root: table(folder(root, "dog"), "dog,pet\n"), "prompts_and_classes.txt has no table of classes"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, make, message):
    with pytest.raises(InputError) as error:
        members(make(tmp_path), "--data.class_noun=")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "- {name: a, photos: x, class_noun: dog}\n- {name: A, photos: x, class_noun: dog}",
            "two subjects of the name a",
        ),
        ("- {name: a, class_noun: dog}", "entry 0 (a) has no photos"),
        ("- {name: ../a, photos: x}", "is no name for a folder"),
        ("a", "is no list of subjects"),
        ("", "is no list of subjects"),
        ("[]", "has no subjects"),
        ("- {name: a, photos: nowhere}", "there is no folder nowhere"),
        ("- {name: a, photos: x, class_noun: dog, train.stepz: 3}", "a: unknown key train.stepz"),
        ("a: dog\na: cat", "line 2: a stands here twice"),
        ("a: {photos: x}", "entry 0 (a) does not say what its subject is"),
        ("a: {photos: x, class_noun: }", "entry 0 (a) does not say what its subject is"),
        ("a: {photos: x, class_noun: no}", "data.class_noun is false, which YAML takes"),
        ("- {name: on, photos: x, class_noun: a}", "name is true, which YAML takes"),
        ("a: {photos: x, identifier: 1e-3}", "data.identifier is 0.001, which YAML takes"),
        ("a: {photos: x, run_dir: y}", "has run_dir, but all members of a set are in one"),
        ("a: {photos: x, data.subjects: y}", "has data.subjects, but put all subjects"),
        ("a: {photos: x, data.instance_images: y}", "says data.instance_images twice"),
    ],
)
def test_what_is_wrong_of_a_list_is_said_in_one_line(tmp_path, text, message):
    with pytest.raises(InputError) as error:
        members(listed(tmp_path, text))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_list_that_says_no_class_has_that_of_all(tmp_path):
    found = members(listed(tmp_path, "a: {photos: x}\nb: {photos: x, class_noun: cat}"), class_noun="dog")
    assert [config.data.class_noun for config in found.values()] == ["dog", "cat"]


def test_names_of_folders_need_not_be_words(tmp_path):
    """Signs become dashes, and letters that macOS takes apart are put together again."""
    folder(tmp_path, "dog (1)", normalize("NFD", "bébé"))
    found = members(table(tmp_path, "subject_name, class \nbébé,baby\n \ndog (1),lamp\n"))
    assert {name: config.data.class_noun for name, config in found.items()} == {"bébé": "baby", "dog-1": "dog"}
    assert found["dog-1"].data.instance_images == str(tmp_path / "dog (1)")


def table(root: Path, text: str) -> Path:
    (root / "prompts_and_classes.txt").write_text(text)
    return root


def listed(root: Path, text: str) -> Path:
    folder(root, "x")
    (root / "list.yaml").write_text(text)
    return root / "list.yaml"
