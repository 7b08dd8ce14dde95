# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``data.subjects``: many subjects, each trained by itself, as an axis.

FOLDER      a folder of folders of photos. Classes are those of its ``prompts_and_classes.txt`` (the DreamBooth data
            set's) or ``subjects.yaml``; else data.class_noun, if that is set; else the names of the folders (dog6: dog)
list.yaml   - {name: rex, photos: photos/rex, identifier: sks, class_noun: dog, train.steps: 600}
            - ...
            or rex: {...}; paths are as they are said, or beside the list
"""

import re
from collections import Counter
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any
from unicodedata import normalize

from dreambooth_jax.config.files import LARGEST_FILE, load_yaml
from dreambooth_jax.config.setting import shown
from dreambooth_jax.data.picture_table import METADATA
from dreambooth_jax.data.sources import COMPANY, is_picture
from dreambooth_jax.errors import InputError
from dreambooth_jax.members.axes import ONE, Axis, Choice, flat_settings, text_of
from dreambooth_jax.paths import at_home
from dreambooth_jax.text_files import read_text

KEY = "subject"
"""The axis' name."""
LIST, DATA_SET = "subjects.yaml", "prompts_and_classes.txt"
"""Files of a folder of subjects that say what they are."""
SHORT = {"photos": "data.instance_images", "identifier": "data.identifier", "class_noun": "data.class_noun"}
"""What an entry may say instead of a key."""
MOST = 1000
_NAME = re.compile(r"[^/\\|\x00-\x1f]*\w[^/\\|\x00-\x1f]*")
"""What a folder can be called after, and a table can show."""
_HEADER = re.compile(r"\s*subject_name\s*,\s*class\s*")


def subjects_axis(place: str, *, class_noun: str = "") -> Axis:
    """The subjects of a folder or a list.

    Args:
        place: the folder, or a YAML file.
        class_noun: of those that nothing else says the class of.

    Raises:
        InputError: if there is none, or one has no photos, no class, or the name of another.
    """
    path = at_home(place)
    if path.is_dir():
        list_of = path / LIST
        found = _of_list(list_of, class_noun, of_folder=True) if list_of.is_file() else _of_folder(path, class_noun)
    elif path.is_file():
        found = _of_list(path, class_noun)
    else:
        raise InputError(f"data.subjects: {place}: no such folder of folders of photos, and no such list (YAML)")
    if not found:
        raise InputError(f"data.subjects: {place} has no subjects: make a folder of photos in it for each")
    if len(found) > MOST:
        raise InputError(f"data.subjects: {place} has {len(found)} subjects; at most {MOST} are trained at once")
    twins = [name for name, count in Counter(choice.text.lower() for choice in found).items() if count > 1]
    if twins:
        raise InputError(f"data.subjects: {place} has two subjects of the name {twins[0]}: call one otherwise")
    return Axis(KEY, tuple(found))


def _of_folder(folder: Path, class_noun: str) -> list[Choice]:
    """A subject for each folder in it."""
    inside = sorted(one for one in folder.iterdir() if one.is_dir() and not COMPANY.fullmatch(one.name))
    if not inside and any(map(is_picture, folder.iterdir())):
        raise InputError(
            f"data.subjects: {folder} holds photos, not folders of photos: for one subject set data.instance_images"
        )
    known = _classes_in(folder / DATA_SET) if (folder / DATA_SET).is_file() else {}
    found = []
    for one in inside:
        noun = known.get(_composed(one.name)) or class_noun or noun_of(one.name)
        if not noun.strip():
            raise InputError(
                f"data.subjects: the folder {one} does not say what its subject is: call it so, such as dog1, set "
                f"data.class_noun for all, or write {LIST}"
            )
        found.append(_choice(one.name, {"data.instance_images": str(one), "data.class_noun": noun}, where=str(folder)))
    return found


def _composed(name: str) -> str:
    """A name in Unicode's form C: macOS takes é of a folder's name apart, into a letter and a sign that is none."""
    return normalize("NFC", name)


def noun_of(name: str) -> str:
    """What a folder's name says of its subject: dog6 is a dog, rc_car-2 an rc car; empty where it says nothing."""
    word = re.sub(r"[\W\d_]+$", "", re.sub(r"^[\W\d_]+", "", _composed(name)))
    return word.replace("_", " ").replace("-", " ")


def _classes_in(file: Path) -> dict[str, str]:
    """Those of :func:`classes_of`. Raises InputError if there is none."""
    found = classes_of(read_text(file))
    if not found:
        raise InputError(
            f"data.subjects: {file} has no table of classes: write a line subject_name,class and behind it lines "
            "dog6,dog, or take the file away"
        )
    return found


def classes_of(text: str) -> dict[str, str]:
    """Name -> class of the DreamBooth data set's ``prompts_and_classes.txt`` (github.com/google/dreambooth): lines
    ``dog6,dog`` after ``subject_name,class``, up to an empty one."""
    lines = iter(text.splitlines())
    if not any(_HEADER.fullmatch(line) for line in lines):
        return {}
    pairs = [line.split(",", 1) for line in takewhile(str.strip, lines) if "," in line]  # what follows the header
    return {_composed(name.strip()): noun.strip() for name, noun in pairs}


def _of_list(file: Path, class_noun: str, *, of_folder: bool = False) -> list[Choice]:
    """The subjects of a YAML file; of one in a folder of subjects, photos are by default in the folder of the name."""
    if file.stat().st_size > LARGEST_FILE:
        raise InputError(f"data.subjects: {file} has more than {LARGEST_FILE} bytes: it is no list of subjects")
    loaded = load_yaml(read_text(file), name=str(file))
    if isinstance(loaded, Mapping):
        loaded = [
            {"name": name, **(one if isinstance(one, Mapping) else {"class_noun": one})} for name, one in loaded.items()
        ]
    if not isinstance(loaded, list) or not all(isinstance(one, Mapping) for one in loaded):
        example = "{name: rex, photos: photos/rex, class_noun: dog}"
        raise InputError(f"data.subjects: {file} is no list of subjects: write - {example}, and so on")
    return [
        _of_entry(one, file, class_noun, where=f"{file}, entry {number}", of_folder=of_folder)
        for number, one in enumerate(loaded)
    ]


def _of_entry(said: Mapping[Any, Any], file: Path, class_noun: str, *, where: str, of_folder: bool) -> Choice:
    """A subject of a list, which says of it what is not empty."""
    entry = {key: value for key, value in said.items() if value is not None}
    name = text_of("name", entry.pop("name", "")) or Path(str(entry.get("photos", ""))).name
    where = f"{where} ({name or 'no name'})"
    if of_folder and SHORT["photos"] not in entry:
        entry.setdefault("photos", name)
    settings: dict[str, Any] = {}
    for key, value in flat_settings(entry):
        if (meant := SHORT.get(key, key)) in settings:
            raise InputError(f"data.subjects: {where} says {meant} twice, once by its short name: leave one out")
        if meant in ONE:
            raise InputError(f"data.subjects: {where} has {meant}, but {ONE[meant]}: leave it out")
        settings[meant] = value
    if not settings.get("data.instance_images"):
        raise InputError(f"data.subjects: {where} has no photos: name their folder")
    settings["data.instance_images"] = _beside(file, str(settings["data.instance_images"]))
    noun = settings.setdefault("data.class_noun", class_noun or (noun_of(name) if of_folder else ""))
    choice = _choice(name, settings, where=where)
    if not str(noun).strip():
        raise InputError(
            f"data.subjects: {where} does not say what its subject is: write class_noun: dog, say, or set "
            "data.class_noun for all"
        )
    return choice


def _beside(file: Path, photos: str) -> str:
    """A folder as it is said, or else beside the list."""
    beside = file.parent / photos
    return str(beside) if not at_home(photos).exists() and beside.exists() else photos


def _choice(name: str, settings: Mapping[str, Any], *, where: str) -> Choice:
    """A subject.

    Raises:
        InputError: if its name cannot be one of a folder, or there is no photo.
    """
    name = _composed(name)
    if not _NAME.fullmatch(name):
        raise InputError(f"data.subjects: {where}: {shown(name)} is no name for a folder: use letters and digits")
    photos = at_home(str(settings["data.instance_images"]))
    if photos.is_file() or (photos.is_dir() and not _holds_pictures(photos)):
        raise InputError(f"data.subjects: {photos} holds no photos: put some in, or take it away")
    if not photos.exists() and "/" not in str(settings["data.instance_images"]):
        raise InputError(f"data.subjects: {where}: there is no folder {photos}")
    return Choice(name, tuple(f"{key}={text_of(key, value)}" for key, value in settings.items()))


def _holds_pictures(folder: Path) -> bool:
    """Whatever is read as photos: pictures, a table that names some, or a data set's files."""
    inside = [one for one in folder.iterdir() if one.name in METADATA or not COMPANY.fullmatch(one.name)]
    return any(is_picture(one) or one.is_dir() or one.name in METADATA or one.suffix == ".parquet" for one in inside)
