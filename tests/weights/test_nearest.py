# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import re
from pathlib import Path

import huggingface_hub as hub
import pytest

from dreambooth_jax.errors import InputError
from dreambooth_jax.weights.folders import locate_configs
from dreambooth_jax.weights.nearest import is_path, nearest


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with two runs, and no hub."""
    for run in ("dog", "teapot"):
        (tmp_path / "runs" / run).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(hub.HfApi, "list_repo_files", lambda *_, **__: pytest.fail("the hub was asked"))
    return tmp_path


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("runs/dgo", "did you mean runs/dog?"),
        ("./runs/dgo", "did you mean runs/dog?"),
        ("run/dog", "did you mean runs?"),
        ("runs/cat", "there is runs, which holds dog, teapot"),
        ("runs/dog/checkpoints/400", "there is runs/dog, which holds no folder"),
        ("./elsewhere/dog", ""),
        ("../dog", ""),
        ("~/no-such-folder-of-mine/x", ""),
        ("/no-such-folder-of-mine/x", ""),
    ],
)
def test_a_path_is_never_asked_of_the_hub_and_the_nearest_folder_is_named(here, source, hint):
    if source == "run/dog":  # has the form of a hub id, and nothing here says that it is none
        assert not is_path(source)
        assert hint in nearest(source)
        return
    with pytest.raises(InputError) as error:
        locate_configs(source)
    assert str(error.value).startswith(f"{source}: no such folder")
    assert hint in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", ["org/model", "stable-diffusion-v1-5/stable-diffusion-v1-5"])
def test_a_hub_id_is(here, source):
    assert not is_path(source)


def test_a_hub_id_that_is_not_there_says_what_is_here(here, monkeypatch):
    def fail(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(hub.HfApi, "list_repo_files", fail)
    with pytest.raises(InputError, match=r"run/dog: no folder here.*; did you mean runs\?$"):
        locate_configs("run/dog")


def test_what_was_downloaded_is_found_beside_a_folder_of_the_same_name(here, tmp_path, monkeypatch):
    (tmp_path / "org").mkdir()
    assert is_path("org/model")
    with pytest.raises(InputError, match="no such folder"):
        locate_configs("org/model")
    asked = []
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda repo, name, **_: str(tmp_path / repo / name))
    monkeypatch.setattr(hub.HfApi, "list_repo_files", lambda self, repo, **_: asked.append(repo) or [])
    with pytest.raises(InputError, match="org/model"):
        locate_configs("org/model")
    assert asked == ["org/model"]


def test_a_run_folder_and_the_hubs_cache_are_told_from_models(here):
    run = here / "runs" / "dog"
    (run / "checkpoints").mkdir()
    (run / "config.yaml").write_text("")
    snapshot = here / "hub" / "models--org--a--b" / "snapshots" / "0ab1"
    snapshot.mkdir(parents=True)
    for folder, hint in (
        ("runs/dog", f"is a run folder: the model that it exported at its end is {Path('runs/dog/model')}"),
        (snapshot.parents[1], f"is the hub's cache of org/a--b: give that name, or {snapshot}"),
        (snapshot.parents[2], "is the hub's cache of several models"),
    ):
        with pytest.raises(InputError, match=re.escape(hint)):
            locate_configs(str(folder))
