# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Class images of a run, in a folder of its own or of the user's."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dreambooth_jax.config import load_config
from dreambooth_jax.config.concepts import concepts_of
from dreambooth_jax.errors import InputError
from dreambooth_jax.prepare.class_photos import class_folders, class_images_there, class_photos
from dreambooth_jax.prepare.photos import digest
from dreambooth_jax.target import Target
from tests.prepare.fake import FakePipeline


def config_of(folder, *overrides):
    settings = ["data.class_noun=dog", "data.resolution=16", "prior.num_images=4", f"prior.class_images={folder}"]
    return load_config(None, [*settings, *overrides])


def photos_of(config, folder, **options):
    pipe = FakePipeline()
    pipe.__dict__.update(components=SimpleNamespace(known_as=lambda known: "abc"), target=Target.here())
    (concept,) = concepts_of(config)
    options |= {"prior": config.prior, "data": config.data, "folder": folder, "should_stop": lambda: False}
    found = class_photos(pipe, concept=concept, **options)
    return found, pipe


def draw(folder, n):
    folder.mkdir(parents=True)
    for i in range(n):
        picture = np.random.default_rng(i).integers(0, 256, (20, 20, 3)).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{i}.png")
    return folder


def test_of_more_pictures_than_were_asked_for_the_first_are_used(tmp_path, caplog):
    folder = draw(tmp_path / "reg", 6)
    photos, pipe = photos_of(config_of(folder), folder)
    assert [photo.name for photo in photos] == ["0.png", "1.png", "2.png", "3.png"]
    assert pipe.calls == []
    assert "holds 6 pictures; the first prior.num_images=4 are used" in caplog.text


def test_of_photos_of_ones_own_all_are_taken_with_their_captions_and_none_are_made(tmp_path):
    folder = draw(tmp_path / "reg", 6)
    (folder / "2.txt").write_text("a {class_noun} in the snow")
    before = sorted(path.name for path in folder.iterdir())
    photos, pipe = photos_of(config_of(folder, "prior.num_images=0"), folder)
    prompts = ["a photo of a dog"] * 6
    prompts[2] = "a dog in the snow"
    assert [photo.prompt for photo in photos] == prompts
    assert pipe.calls == []
    assert sorted(path.name for path in folder.iterdir()) == before


def test_where_none_are_made_some_must_be_there(tmp_path):
    config = config_of(tmp_path / "reg", "prior.num_images=0")
    with pytest.raises(InputError, match=r"prior.num_images is 0, so no class images are made, and there is no .*reg"):
        photos_of(config, tmp_path / "reg")
    (tmp_path / "reg").mkdir()
    with pytest.raises(InputError, match="no usable picture"):
        photos_of(config, tmp_path / "reg")


def test_a_run_that_has_begun_with_all_of_them_goes_on_with_them(tmp_path):
    folder = draw(tmp_path / "reg", 6)
    everything, _ = photos_of(config_of(folder, "prior.num_images=6"), folder)
    photos, _ = photos_of(config_of(folder), folder, begun_with=digest(everything))
    assert photos == everything


def test_a_lost_picture_is_made_again_from_its_seed(tmp_path):
    folder = tmp_path / "class"
    before, _ = photos_of(config_of(folder), folder)
    (folder / "000001.png").unlink()
    after, _ = photos_of(config_of(folder), folder)
    assert digest(after) == digest(before)


@pytest.mark.parametrize("inner", ["1_dog", "train"])
def test_pictures_one_folder_deeper_are_refused_and_nothing_is_written(tmp_path, inner):
    draw(tmp_path / "reg" / inner, 3)
    with pytest.raises(InputError, match=rf"one folder deeper, in {inner} \(3 pictures\)"):
        class_folders(config_of(tmp_path / "reg"))
    class_folders(config_of(tmp_path / "reg" / inner))
    assert [path.name for path in (tmp_path / "reg").iterdir()] == [inner]


def test_a_path_that_is_a_file_is_named(tmp_path):
    file = tmp_path / "reg.zip"
    file.touch()
    for path in (file, file / "deeper"):
        with pytest.raises(InputError, match=r"reg\.zip is a file; name a folder"):
            class_folders(config_of(path))


def test_the_folder_of_the_instance_images_is_refused(tmp_path):
    folder = draw(tmp_path / "photos", 3)
    for spelt in (folder, tmp_path / "x" / ".." / "photos"):
        with pytest.raises(InputError, match="is the folder of the instance images"):
            class_folders(config_of(spelt, f"data.instance_images={folder}"))


def test_a_folder_that_is_not_there_yet_is_fine(tmp_path):
    class_folders(config_of(tmp_path / "a" / "b"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("num_images", [0, 3, 4])
def test_what_a_run_was_made_from_is_told_without_its_model(tmp_path, num_images):
    """Of as many as it used, whatever else is there; what is missing is not compared."""
    folder = draw(tmp_path / "reg", 4)
    config = config_of(folder, f"prior.num_images={num_images}")

    def there(begun_with="", config=config):
        return class_images_there(config, begun_with=begun_with, read={})

    used = digest(photos_of(config, folder)[0])
    assert there() == there(used) == used
    draw_last = np.full((20, 20, 3), 7, np.uint8)
    Image.fromarray(draw_last).save(folder / "9.png")
    assert (there(used) == used) is bool(num_images)
    Image.fromarray(draw_last).save(folder / "1.png")
    assert there(used) not in ("", used)
    for picture in list(folder.iterdir())[:3]:
        picture.unlink()
    assert (there(used) == "") is bool(num_images)
    assert there(config=config_of(folder, "prior.weight=0")) == ""
    assert there(config=config_of(tmp_path / "away", f"prior.num_images={num_images}")) == ""


def test_all_the_pictures_of_an_earlier_version_were_used(tmp_path):
    folder = draw(tmp_path / "reg", 6)
    begun_with = digest(photos_of(config_of(folder, "prior.num_images=0"), folder)[0])
    config = config_of(folder)
    assert class_images_there(config, begun_with=begun_with, read={}) == begun_with
    assert digest(photos_of(config, folder, begun_with=begun_with)[0]) == begun_with
