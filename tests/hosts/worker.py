# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""One of several processes: does the small things that processes do together, and process 0 writes what came out.

python -m tests.hosts.worker FOLDER --coordinator ... --num_processes ... --process_id ...
"""

import dataclasses
import json

import jax
import numpy as np

from dreambooth_jax import distributed
from dreambooth_jax.config import SamplingConfig, load_config
from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.data.sources import load_images
from dreambooth_jax.errors import InputError
from dreambooth_jax.members import Member
from dreambooth_jax.prepare import multihost
from dreambooth_jax.prepare.cache import Views, latent_moments
from dreambooth_jax.prepare.class_image_store import Recipe
from dreambooth_jax.prepare.class_images import ensure_class_images
from dreambooth_jax.size import Size
from dreambooth_jax.target import Target
from dreambooth_jax.trainer.members import run_group
from dreambooth_jax.training import parallel
from dreambooth_jax.training.checkpoint import Checkpoints
from dreambooth_jax.training.interrupt import StopSign
from dreambooth_jax.training.parallel import drawing
from dreambooth_jax.training.parallel.sharding import for_writing, replicate
from tests.hosts.processes import join
from tests.prepare.fake import FakePipeline
from tests.training import toy

MAPPERS = {"pmap": ("pmap", 0), "fsdp": ("fsdp", 0), "fsdp in pairs": ("fsdp", 2)}
RECIPE = Recipe(prompt="a photo of a dog", model="abc", sampling=SamplingConfig(height=16, width=16, steps=3))
VIEWS = Views(size=Size(16, 16), crop="random", flip=True, seed=3)
SPOILT = {3: "black", 6: 2}
LEAVES = [np.random.default_rng(7).normal(size=shape).astype("float32") for shape in ((64, 96), (128, 50), (3, 5))]
"""The last is too small to be split."""


def train(folder, name):
    """Three steps, a checkpoint, and two more from what it restores."""
    kind, fsdp_devices = MAPPERS[name]
    mapper = parallel.make_mapper(kind, Target.here(), fsdp_devices=fsdp_devices)
    state, losses = toy.run(mapper, steps=3)
    held = state.trainable["unet"]["a"]["kernel"].addressable_data(0).size / (8 * toy.WIDTH)
    checkpoints = Checkpoints(folder / name)
    checkpoints.save(state, step=3, meta={"note": "kept"})
    checkpoints.wait()
    again = checkpoints.restore(mapper.restore_target(jax.eval_shape(lambda: toy.setup()[2])), step=3)
    checkpoints.close()
    state, more = toy.run(mapper, steps=2, first=3, state=again)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(replicate(state, mapper.target.mesh))]
    if distributed.is_main():
        np.savez(folder / f"{name}.npz", *leaves)
    return {"losses": losses + more, "held": held, "rows": [mapper.rows(16).start, mapper.rows(16).stop]}


def drawn():
    """How parameters lie that are split over all devices and too large to be whole on one, and what they are."""
    target = dataclasses.replace(Target.here(), memory=2**16)
    tree = {name: numbers for name, numbers in zip("abc", LEAVES, strict=True)}
    placed = parallel.make_mapper("fsdp", target).place(tree)
    assert not placed["a"].is_fully_addressable
    parallel.sharding.AT_ONCE = LEAVES[0].nbytes  # each in a program of its own
    brought = drawing.for_drawing(placed, target)
    written = for_writing(placed, target.mesh)
    if distributed.is_main():
        jax.tree.map(np.testing.assert_array_equal, written, tree)
    assert isinstance(written["a"], np.ndarray if distributed.is_main() else jax.ShapeDtypeStruct)
    jax.tree.map(np.testing.assert_array_equal, brought, tree)
    return {name: leaf.addressable_data(0).size for name, leaf in brought.items()}


def stop(process):
    """The step after which a signal to process 1 in its fourth step stops us."""
    heard = []
    sign = StopSign(lambda: bool(heard))
    for step in range(1, 20):
        if step == 4 and process == 1:
            heard.append("SIGTERM")
        answers = {sign(step), sign(step)}
        if answers == {True}:
            return step
    return None


def refusal(function, *arguments):
    try:
        function(*arguments)
    except InputError as error:
        return str(error)
    return None


def prepare(folder, photos, process):
    """Class images and moments, shared out between pipelines without networks."""
    pipe = FakePipeline(SPOILT.get)
    count = ensure_class_images(pipe, folder / "class", RECIPE, num_images=11, seed=2, batch_size=2)
    made = [seed for call in pipe.calls for seed in call["seed"]]
    pictures = load_images(photos, prompt="a {identifier}", subject=Subject(identifier="sks", class_noun="dog"))
    mean, logvar = latent_moments(pipe, pictures, VIEWS, folder=folder / "cache", model="m", batch_size=3)
    encoded, again = pipe.encoded, FakePipeline()
    distributed.barrier("cache written")
    latent_moments(again, pictures, VIEWS, folder=folder / "cache", model="m", batch_size=3)
    if process == 1:
        np.savez(folder / "moments.npz", mean=mean, logvar=logvar)
    return {"count": count, "made": made, "encoded": encoded, "encoded_again": again.encoded}


def group(folder, process):
    """What comes of members of which process 1 can read none."""
    photos = folder / "photos" if process == 0 else folder / "nothing"
    options = [f"data.instance_images={photos}", "data.class_noun=dog", "adapter.kind=lora", f"model.path={folder}"]
    members = [
        Member(name=name, config=load_config(None, [*options, f"run_dir={folder / name}"])) for name in ("a", "b")
    ]
    return [one.stopped for one in run_group(members, folder / "groups")]


def main():
    folder = join()
    process = jax.process_index()
    parallel.sharded.SHARDING_THRESHOLD = 64  # the toy's leaves are small
    multihost.VISIBLE_WITHIN = 2
    report = {
        "devices": [jax.device_count(), jax.local_device_count()],
        "gathered": distributed.gather(np.arange(2) + 10 * process).tolist(),
        **{name: train(folder, name) for name in MAPPERS},
        "drawn": drawn(),
        "stopped": stop(process),
        "unlike": refusal(multihost.check_same, "settings", f"of process {process}"),
        "alike": refusal(multihost.check_same, "settings", "of all"),
        "apart": refusal(multihost.check_shared, folder / f"own{process}"),
        "shared": refusal(multihost.check_shared, folder / "shared"),
        "prepare": prepare(folder, folder / "photos", process),
        "said": distributed.said_anywhere(["", f"mine is {process}", "é" * 300 if process else "", ""]),
        "group": group(folder, process),
        "both here": distributed.all_are_here(within=60),
        "alone here": process == 0 and distributed.all_are_here(within=0.5),
    }
    (folder / f"report{process}.json").write_text(json.dumps(report))
    distributed.barrier("end")


if __name__ == "__main__":
    main()
