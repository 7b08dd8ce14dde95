# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Tiny groups: three members that differ in all that members may differ in, and what one has left in its folder."""

import json
import math

import numpy as np
import pytest
from PIL import Image

import dreambooth_jax as dbx
from dreambooth_jax import rng, trees
from dreambooth_jax.adapters import make_adapter
from dreambooth_jax.config import load_config
from dreambooth_jax.members import Member
from dreambooth_jax.training.checkpoint import complete_steps
from tests.runs import MODEL, assert_same, draw_photos, weights

LOOP = "dreambooth_jax.trainer.members.run.run_phases"
TINY = [
    *("data.resolution=16", "train.batch_size=2", "train.log_every=1", "checkpoint.every=2", f"model.path={MODEL}"),
    *("prior.num_images=0", "samples.every=0", "validation.holdout=1", "validation.every=3", "validation.timesteps=1"),
]
LORA = [
    *("adapter.kind=lora", "adapter.rank=2", "adapter.targets=attn-only", "text_encoder.stop=0"),
    *("optimizer.warmup_steps=2", "train.ema_decay=0.5"),
]
WORDS = ["tokens.vectors=2", "tokens.learning_rate=1e-2"]
INVERSION = ["adapter.kind=textual_inversion", *WORDS]
PIVOTAL = [
    *("adapter.kind=pivotal", *WORDS, "tokens.alone=2", "tokens.stop=2", "text_encoder.stop=0"),
    *("adapter.rank=2", "adapter.targets=attn-only"),
]
OWN = {
    "dog": ["optimizer.learning_rate=1e-2", "train.steps=4", "data.class_noun=dog"],
    "cat": ["optimizer.learning_rate=3e-3", "train.steps=6", "train.seed=3", "data.class_noun=cat", "prior.weight=0.5"],
    "hat": ["optimizer.learning_rate=5e-3", "train.steps=5", "train.seed=7", "data.class_noun=dog"],
}


def draw_pictures(root):
    """Of each member, and of its class."""
    for number, name in enumerate(OWN):
        draw_photos(root / "photos" / name, 3 + number)
        draw_photos(root / "classes" / name, 1 + number)
    return root


def members(root, folder, settings, **own):
    """Of the table above, or of those that have more settings, each in its own folder."""

    def config(name):
        places = [f"data.instance_images={root / 'photos' / name}", f"run_dir={root / folder / name}"]
        places.append(f"prior.class_images={root / 'classes' / name}")
        return load_config(None, [*TINY, *settings, *OWN[name], *places, *own.get(name, [])])

    return [Member(name=name, config=config(name)) for name in own or OWN]


def lines(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in found]


def rooted(line):
    """A teacher's term is the square of a difference of two predictions that are nearly equal: the difference is as
    exact as they are, float32's roundings of what is about one."""
    return line | {name: math.sqrt(line[name]) for name in ("prior_loss",) if name in line}


def assert_close(folder, other, config):
    """Two runs of a member are the same, but for the order in which float32 is summed up."""
    for one, expected in zip(lines(folder), lines(other), strict=True):
        assert rooted(one) == pytest.approx(rooted(expected), rel=5e-5, abs=1e-6)
    (step,) = complete_steps(other / "checkpoints")
    found, expected = weights(folder, step), weights(other, step)
    assert found.keys() == expected.keys()
    start = beginning(config)
    for name, leaf in expected.items():
        moved = np.abs(leaf - start[name]).max()
        assert moved > 0, name
        assert np.abs(found[name] - leaf).max() <= 1e-2 * moved, name
    assert_same_files(folder, other)


def assert_as_alone(folder, config):
    """What a member has left is what it leaves alone."""
    assert_close(folder, dbx.train(config).folder, config)


def assert_identical(folder, other):
    """Two runs of a member are the same, bit for bit."""
    (step,) = complete_steps(other / "checkpoints")
    for ema in (False, True) if (other / "checkpoints" / str(step) / "ema").exists() else (False,):
        assert_same(weights(folder, step, ema=ema), weights(other, step, ema=ema))
    assert lines(folder) == lines(other)
    assert_same_files(folder, other)
    for file in folder.glob("*.safetensors"):
        assert file.read_bytes() == (other / file.name).read_bytes()
    for file in folder.glob("samples/*.png"):
        pictures = [np.asarray(Image.open(path / "samples" / file.name)) for path in (folder, other)]
        np.testing.assert_array_equal(*pictures)


def assert_same_files(folder, other):
    """The same files are there, and say the same of what was exported."""

    def names(path):
        found = {str(file.relative_to(path)) for file in path.rglob("*") if "checkpoints" not in file.parts}
        return {name for name in found if "tfevents" not in name and not name.startswith("cache")}

    assert names(folder) == names(other)
    assert complete_steps(folder / "checkpoints") == complete_steps(other / "checkpoints")
    assert (folder / "exported.json").read_text() == (other / "exported.json").read_text()


def beginning(config):
    """Leaves that are trained, before the first step."""
    pipe = dbx.load_pretrained(config.model.path)
    adapter = make_adapter(config, pipe.tokenizers, pipe.conditioner.unread)
    _, trainable = adapter.init(rng.root_key(config.train.seed), pipe.params)
    return {name: np.asarray(leaf) for name, leaf in trees.flatten(trainable).items()}
