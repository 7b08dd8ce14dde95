# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Folders as people have them, and data sets."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from dreambooth_jax.data import images
from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.data.sources import load_images
from dreambooth_jax.errors import InputError
from dreambooth_jax.size import Size
from tests.data.pictures import array, noise, quadrants, to_bytes

DOG = Subject(identifier="sks", class_noun="dog")


def load(source, **options):
    defaults = {"prompt": "a {class_noun}", "subject": DOG, "size": Size(32, 32)}
    return load_images(source, **(defaults | options))


@pytest.fixture
def photos(tmp_path):
    """Three different sound pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed, name in enumerate(["b.png", "a.JPG", "c.webp"]):
        noise(seed).save(folder / name, "JPEG" if name.endswith("JPG") else None)
    return folder


def test_a_folder_of_photos(photos, caplog):
    found = load(photos, prompt="a photo of {identifier} {class_noun}")
    assert [photo.name for photo in found] == ["a.JPG", "b.png", "c.webp"]
    assert {photo.prompt for photo in found} == {"a photo of sks dog"}
    assert [photo.digest for photo in found] == [
        images.content_hash((photos / photo.name).read_bytes()) for photo in found
    ]
    np.testing.assert_array_equal(array(found[1].image()), array(noise(0)))
    assert not caplog.records
    assert load(str(photos)) == load(photos)


def test_views_of_a_photo(photos):
    photo = load(photos)[1]
    views = photo.views(size=Size(16, 16), crop="random", flip=True, seed=3)
    assert views.shape == (8, 16, 16, 3)
    np.testing.assert_array_equal(views[4:], views[:4, :, ::-1])
    np.testing.assert_array_equal(views, photo.views(size=Size(16, 16), crop="random", flip=True, seed=3))
    (middle,) = photo.views(size=Size(16, 16), crop="center", flip=False, seed=3)
    np.testing.assert_array_equal(middle, images.crop_resize(noise(0), size=Size(16, 16)))


def test_usual_company_is_passed_over_in_silence(photos, caplog):
    for name in [".DS_Store", "Thumbs.db", "desktop.ini", "._a.JPG", "notes.txt", "README.md", "manifest.jsonl"]:
        (photos / name).write_bytes(b"\0\1")
    (photos / ".ipynb_checkpoints").mkdir()
    shutil.copy(photos / "b.png", photos / ".ipynb_checkpoints" / "b-checkpoint.png")
    (photos / "folder.png").mkdir()
    assert len(load(photos)) == 3
    assert not caplog.records


@pytest.mark.parametrize("text", ["B.txt", "b.png.txt"])
def test_a_text_that_is_nearly_a_caption_is_named(photos, caplog, text):
    (photos / text).write_text("a {identifier} dog")
    assert {photo.prompt for photo in load(photos)} == {"a dog"}
    (record,) = caplog.records
    assert record.getMessage().endswith(f"{text} is not read: the caption of b.png is b.txt")
    caplog.clear()
    load(photos, use_captions=False)
    assert not caplog.records


def test_a_second_row_for_a_picture_is_named(photos, caplog):
    rows = [{"file_name": "b.png", "text": text} for text in ("one", "two")]
    (photos / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "two" in {photo.prompt for photo in load(photos)}
    (record,) = caplog.records
    assert "line 2: b.png stands here for the second time" in record.getMessage()


def test_other_files_get_one_line(photos, caplog):
    for name in ["clip.mp4", "model.safetensors"]:
        (photos / name).touch()
    assert len(load(photos)) == 3
    (record,) = caplog.records
    assert "clip.mp4, model.safetensors" in record.getMessage()


def test_bad_pictures_among_good_ones_are_named_and_left_out(photos, caplog):
    (photos / "cut.png").write_bytes(to_bytes(noise(7), "PNG")[:-99])
    (photos / "empty.jpg").touch()
    (photos / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    assert [photo.name for photo in load(photos)] == ["a.JPG", "b.png", "c.webp"]
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert "cut.png: damaged" in lines[0]
    assert "empty.jpg: not a picture" in lines[1]
    assert "phone.heic: not a picture" in lines[2]
    assert "convert it to JPEG" in lines[2]


def test_identical_pictures_are_named(photos, caplog):
    shutil.copy(photos / "b.png", photos / "z.png")
    assert len(load(photos)) == 4
    assert "b.png and z.png are the same picture" in caplog.text


def test_small_pictures_are_named(photos, caplog):
    Image.new("RGB", (1, 1)).save(photos / "dot.png")
    assert len(load(photos)) == 4
    assert "smaller than 32 pixels, so enlarged: dot.png (1x1)" in caplog.text


def test_nothing_usable_says_what_is_there(tmp_path):
    with pytest.raises(InputError, match=r"no usable picture; it holds nothing"):
        load(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.txt").touch()
    (tmp_path / ".DS_Store").touch()
    with pytest.raises(InputError, match=r"no usable picture; it holds 1 \.DS_Store, 2 \.txt, 1 folder"):
        load(tmp_path)
    (tmp_path / "bad.png").write_text("x")
    with pytest.raises(InputError, match=r"no usable picture; left out: bad\.png: not a picture"):
        load(tmp_path)


def test_a_wrong_source_is_named(photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    for source in ["./nowhere", "photos/nowhere", "no where", "/a/b/c", "nowhere", photos.parent / "nowhere"]:
        with pytest.raises(InputError, match=r"(nowhere|no where|/a/b/c): no such folder"):
            load(source)
    with pytest.raises(InputError, match=r"b\.png: a file"):
        load(photos / "b.png")
    with pytest.raises(InputError, match="no pictures were given"):
        load("")


def test_wrong_settings_are_not_blamed_on_pictures(photos):
    with pytest.raises(InputError, match="no colour"):
        load(photos, background="whit")
    with pytest.raises(InputError, match="did you mean {class_noun}"):
        load(photos, prompt="a {noun}")


def test_background_reaches_the_picture(tmp_path):
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    (photo,) = load(tmp_path, background="#ff0000")
    assert (array(photo.image()) == (255, 0, 0)).all()


def test_captions(photos):
    (photos / "a.txt").write_text("{identifier} from the sidecar")
    (photos / "b.txt").write_text("a sidecar that the table overrides")
    (photos / "metadata.csv").write_text("file_name,text\nb.png,{identifier} from the table\nc.webp,\n")
    assert [photo.prompt for photo in load(photos)] == ["sks from the sidecar", "sks from the table", "a dog"]
    assert {photo.prompt for photo in load(photos, use_captions=False)} == {"a dog"}
    (photos / "a.txt").write_text("{identifer} mistaken")
    with pytest.raises(InputError, match="did you mean {identifier}"):
        load(photos)


def test_a_table_names_pictures_in_subfolders_and_missing_ones(photos, caplog):
    (photos / "more").mkdir()
    quadrants().save(photos / "more" / "q.png")
    rows = [{"file_name": "more/q.png", "text": "flag"}, {"file_name": "gone.png", "text": "?"}]
    (photos / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [photo.name for photo in load(photos)] == ["a.JPG", "b.png", "c.webp", "more/q.png"]
    assert f"{photos}: its table names pictures that are not there, so left out: gone.png" in caplog.text
    assert "Errno" not in caplog.text
    for name in ["a.JPG", "b.png", "c.webp"]:
        (photos / name).unlink()
    (photos / "train").mkdir()  # not looked at: the table above it says where the pictures are
    assert [photo.prompt for photo in load(photos)] == ["flag"]


def test_a_caption_that_cannot_be_read_names_its_picture(photos):
    (photos / "a.txt").write_text("a photo of {sks} dog")
    with pytest.raises(InputError, match=r"caption of a\.JPG: unknown field {sks} .* written {{ and }}"):
        load(photos)
    (photos / "a.txt").write_text("a photo of {{sks}} dog")
    assert load(photos)[0].prompt == "a photo of {sks} dog"


def test_a_folder_of_prompts_alone_says_so(tmp_path):
    (tmp_path / "prompts_and_classes.txt").write_text("a dog")
    with pytest.raises(InputError, match=r"it holds 1 \.txt; texts alone are no pictures: prompts_and_classes\.txt$"):
        load(tmp_path)


@pytest.mark.parametrize("inner", [["1_dog"], ["1_dog", "10_cat"]])
def test_pictures_one_folder_deeper_are_refused_by_name(photos, inner):
    for name in inner:
        shutil.copytree(photos, photos.parent / "set" / name)
    (photos.parent / "set" / ".cache").mkdir()
    with pytest.raises(InputError, match=r"one folder deeper, in .*1_dog \(3 pictures\).*: name the folder"):
        load(photos.parent / "set")
    assert len(load(photos.parent / "set" / "1_dog")) == 3


def test_pictures_in_folders_beside_pictures_get_a_line(photos, caplog):
    shutil.copytree(photos, photos / "more")
    assert len(load(photos)) == 3
    assert "pictures in its folders are left out: more (3 pictures)" in caplog.text


def test_pictures_in_folders_that_the_table_names_get_no_line(photos, caplog):
    (photos / "more").mkdir()
    noise(9).save(photos / "more" / "n.png")
    (photos / "metadata.jsonl").write_text(json.dumps({"file_name": "more/n.png", "text": "x"}))
    assert len(load(photos)) == 4
    assert not caplog.records


def test_plain_folders_need_no_datasets(photos):
    """Importing it takes seconds."""
    code = (
        "import sys\nfrom dreambooth_jax.data.prompts import Subject\n"
        "from dreambooth_jax.data.sources import load_images\n"
        f"load_images({str(photos)!r}, prompt='', subject=Subject(identifier='', class_noun=''))\n"
        "assert 'datasets' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """The library, with its cache in the test's own folder."""
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return library


@pytest.mark.parametrize("train", [False, True])
def test_an_imagefolder_reads_as_datasets_reads_it(photos, datasets, train):
    folder = photos / "train" if train else photos
    if train:
        folder.mkdir()
        for path in [*photos.glob("*.*")]:
            path.rename(folder / path.name)
    rows = [{"file_name": name, "text": f"caption {name}"} for name in ("a.JPG", "b.png", "c.webp")]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    theirs = datasets.load_dataset("imagefolder", data_dir=str(photos))["train"]
    ours = load(photos)
    assert [photo.prompt for photo in ours] == theirs["text"][:]
    for photo, image in zip(ours, theirs["image"]):
        np.testing.assert_array_equal(array(photo.image()), array(image))


def test_a_data_set_of_parquet_files(photos, datasets, tmp_path):
    """Also what a hub id gives: pictures as bytes in one column, captions in another."""
    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    names = ["c.webp", "b.png", "a.JPG"]
    pictures = [{"bytes": (photos / name).read_bytes(), "path": name} for name in names[:2]]
    pictures += [{"bytes": (photos / "a.JPG").read_bytes(), "path": None}, {"bytes": b"bad", "path": "bad.png"}, None]
    columns = {"label": list(range(5)), "picture": pictures, "caption": ["{identifier}!", "", None, "x", "y"]}
    columns["weight"] = [0.5, None, 2.0, 1.0, 1.0]
    features = datasets.Features(
        label=datasets.Value("int64"),
        picture=datasets.Image(),
        caption=datasets.Value("string"),
        weight=datasets.Value("float32"),
    )
    datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / "train-00000-of-00001.parquet")
    found = load(folder.parent)
    assert [photo.name for photo in found] == ["c.webp", "b.png", "00002"]
    assert [photo.prompt for photo in found] == ["sks!", "a dog", "a dog"]
    assert [photo.weight for photo in found] == [0.5, 1, 2]
    assert [photo.digest for photo in found] == [photo.digest for photo in load(photos)][::-1]
    np.testing.assert_array_equal(array(found[1].image()), array(noise(0)))


def test_a_data_set_in_a_folder_may_not_name_files_outside_it(photos, datasets, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    shutil.copy(photos / "b.png", folder)
    features = datasets.Features(image=datasets.Image())

    def write(path):
        cells = {"image": [{"bytes": None, "path": path}]}
        datasets.Dataset.from_dict(cells, features=features).to_parquet(folder / "train.parquet", batch_size=1)

    write("b.png")
    assert [photo.name for photo in load(folder)] == ["b.png"]
    write(str(photos / "b.png"))
    with pytest.raises(InputError, match="row 0: the picture .* is not in the folder"):
        load(folder)


def test_a_data_set_without_pictures_names_its_columns(datasets, tmp_path):
    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(InputError, match="no column of pictures; it has text"):
        load(tmp_path)


def test_a_hub_id_that_cannot_be_had_is_one_line(datasets):
    with pytest.raises(InputError, match="nobody/nothing: neither a folder nor a data set") as caught:
        load("nobody/nothing:config")
    assert "\n" not in str(caught.value)
