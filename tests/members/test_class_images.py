# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Class images of members: those of one class are drawn once, and are those that each would draw alone."""

from pathlib import Path

import jax
import pytest

from dreambooth_jax.members.axes import Axis, Choice
from dreambooth_jax.members.expand import expand
from dreambooth_jax.prepare import class_photos
from dreambooth_jax.prepare.class_image_store import usable_pictures
from dreambooth_jax.target import Target
from dreambooth_jax.trainer.members import run_group
from tests.members.groups import LORA, TINY, assert_as_alone
from tests.runs import draw_photos

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*:ResourceWarning")]

CLASSES = {"rex": "dog", "tom": "cat", "fido": "dog"}
SETTINGS = [
    *(*TINY, *LORA, "adapter.targets=.*/mid_block/.*/to_q", "validation.holdout=0", "train.ema_decay=0"),
    *("prior.num_images=3", "prior.steps=1", "prior.batch_size=1", "train.steps=2", "optimizer.learning_rate=1e-2"),
]


def members_in(root, folder):
    """A member for each subject, as a set has them."""
    choices = [
        Choice(name, (f"data.class_noun={noun}", f"data.instance_images={root / name}"))
        for name, noun in CLASSES.items()
    ]
    options = [f"--{setting}" for setting in SETTINGS]
    return expand(options, [Axis("subject", tuple(choices))], folder=root / folder, within="subjects")[0]


def test_those_of_a_class_are_drawn_once_and_are_those_of_a_run_alone(tmp_path, monkeypatch):
    drawn = []

    def ensure_class_images(pipe, folder, *args, **options):
        before = len(usable_pictures(folder))
        found = make(pipe, folder, *args, **options)
        drawn.append((folder.name, len(usable_pictures(folder)) - before))
        return found

    make = class_photos.ensure_class_images
    monkeypatch.setattr(class_photos, "ensure_class_images", ensure_class_images)
    monkeypatch.setattr(Target, "here", classmethod(lambda cls: cls.of(jax.devices()[:1])))
    for name in CLASSES:
        draw_photos(tmp_path / name, 2)
    group = members_in(tmp_path, "together")
    assert all(one.result.finished for one in run_group(group, tmp_path / "groups"))
    assert [(name.partition("-")[0], count) for name, count in drawn if count] == [
        ("a_photo_of_a_dog", 3),
        ("a_photo_of_a_cat", 3),
    ]
    for one in group:
        (alone,) = (other for other in members_in(tmp_path, f"alone-{one.name}") if other.name == one.name)
        assert_as_alone(Path(one.config.run_dir), alone.config)
        shared, own = (Path(config.prior.class_images) for config in (one.config, alone.config))
        assert shared != own
        assert len(usable_pictures(own)) == 3
        for picture in usable_pictures(own):
            assert (shared / picture).read_bytes() == (own / picture).read_bytes()
