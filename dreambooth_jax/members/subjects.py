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
from pathlib import Path
from typing import Any

from dreambooth_jax.config.files import LARGEST_FILE, load_yaml
from dreambooth_jax.config.setting import shown
from dreambooth_jax.data.picture_table import METADATA
from dreambooth_jax.data.sources import COMPANY, is_picture
from dreambooth_jax.errors import InputError
from dreambooth_jax.members.axes import Axis, Choice, flat_settings, written
from dreambooth_jax.paths import at_home
from dreambooth_jax.text_files import read_text

KEY = "subject"
"""The axis' name."""
LIST, DATA_SET = "subjects.yaml", "prompts_and_classes.txt"
"""Files of a folder of subjects that say what they are."""
SHORT = {"photos": "data.instance_images", "identifier": "data.identifier", "class_noun": "data.class_noun"}
"""What an entry may say instead of a key."""
MOST = 1000
_NAME = re.compile(r"\w[\w .+-]*")


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
        found = _of_list(path / LIST, of_folder=True) if (path / LIST).is_file() else _of_folder(path, class_noun)
    elif path.is_file():
        found = _of_list(path)
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
    known = classes_of(read_text(folder / DATA_SET)) if (folder / DATA_SET).is_file() else {}
    found = []
    for one in inside:
        noun = known.get(one.name) or class_noun or noun_of(one.name)
        if not noun.strip():
            raise InputError(
                f"data.subjects: the folder {one} does not say what its subject is: call it so, such as dog1, set "
                f"data.class_noun for all, or write {LIST}"
            )
        found.append(_choice(one.name, {"data.instance_images": str(one), "data.class_noun": noun}, where=str(folder)))
    return found


def noun_of(name: str) -> str:
    """What a folder's name says of its subject: dog6 is a dog, rc_car-2 an rc car; empty where it says nothing."""
    return re.sub(r"[\W\d_]+$", "", re.sub(r"^[\W\d_]+", "", name)).replace("_", " ").replace("-", " ")


def classes_of(text: str) -> dict[str, str]:
    """Name -> class of the DreamBooth data set's ``prompts_and_classes.txt`` (github.com/google/dreambooth): lines
    ``dog6,dog`` after ``subject_name,class``, up to an empty one."""
    _, header, table = text.partition("subject_name,class\n")
    lines = table.partition("\n\n")[0].splitlines() if header else []
    pairs = [line.split(",", 1) for line in lines if "," in line]
    return {name.strip(): noun.strip() for name, noun in pairs}


def _of_list(file: Path, *, of_folder: bool = False) -> list[Choice]:
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
    found = []
    for number, one in enumerate(loaded):
        entry = dict(one)
        name = str(entry.pop("name", "") or Path(str(entry.get("photos", ""))).name)
        if of_folder:
            entry.setdefault("photos", name)
        settings = {SHORT.get(key, key): value for key, value in flat_settings(entry)}
        if not settings.get("data.instance_images"):
            raise InputError(
                f"data.subjects: {file}, entry {number} ({name or 'no name'}) has no photos: name their folder"
            )
        settings["data.instance_images"] = _beside(file, str(settings["data.instance_images"]))
        found.append(_choice(name, settings, where=f"{file}, entry {number}"))
    return found


def _beside(file: Path, photos: str) -> str:
    """A folder as it is said, or else beside the list."""
    beside = file.parent / photos
    return str(beside) if not at_home(photos).exists() and beside.exists() else photos


def _choice(name: str, settings: Mapping[str, Any], *, where: str) -> Choice:
    """A subject.

    Raises:
        InputError: if its name cannot be one of a folder, or there is no photo.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"data.subjects: {where}: {shown(name)} is no name for a folder: use letters and digits")
    photos = at_home(str(settings["data.instance_images"]))
    if photos.is_file() or (photos.is_dir() and not _holds_pictures(photos)):
        raise InputError(f"data.subjects: {photos} holds no photos: put some in, or take it away")
    if not photos.exists() and "/" not in str(settings["data.instance_images"]):
        raise InputError(f"data.subjects: {where}: there is no folder {photos}")
    return Choice(name, tuple(f"{key}={written(value)}" for key, value in settings.items()))


def _holds_pictures(folder: Path) -> bool:
    """Whatever is read as photos: pictures, a table that names some, or a data set's files."""
    inside = [one for one in folder.iterdir() if one.name in METADATA or not COMPANY.fullmatch(one.name)]
    return any(is_picture(one) or one.is_dir() or one.name in METADATA or one.suffix == ".parquet" for one in inside)
