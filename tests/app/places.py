# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Folders of people as the page's jobs leave them, made without a job."""

from dreambooth_jax.app.people import new_token
from dreambooth_jax.config import load_config, save_config


def put_run(desk, owner, *words):
    """A training that is done and has a checkpoint, as far as folders tell."""
    place = desk.place(owner)
    folder, photos = place / "runs" / new_token(), place / "photos" / new_token()
    told = [f"data.instance_images={photos}", "data.class_noun=red dog/..", f"run_dir={folder}", *words]
    photos.mkdir(parents=True)
    (photos / "photo_01.png").write_bytes(bytes(1000))
    meta = folder / "checkpoints" / "4" / "meta"
    meta.mkdir(parents=True)
    (meta / "metadata").touch()
    (meta.parent / "_CHECKPOINT_METADATA").touch()
    save_config(folder / "config.yaml", load_config("quickstart", told))
    return end(desk, desk.queue.add(owner, ["train", "quickstart", *told], folder))


def end(desk, job, state="done"):
    """The same job, which has ended."""
    return desk.queue._set(job, state=state)
