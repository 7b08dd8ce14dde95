# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import itertools
import resource
import shutil

import jax
import numpy as np
import pytest

from dreambooth_jax.errors import InputError
from dreambooth_jax.target import Target
from dreambooth_jax.training.checkpoint import Checkpoints, complete_steps, read_meta, read_weights
from dreambooth_jax.training.parallel import make_mapper
from tests.training import toy


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def mapper(name, n):
    return make_mapper(name, Target.of(jax.devices()[:n]))


LAYOUTS = [("auto", 1), ("pmap", 8), ("fsdp", 8), ("fsdp", 2)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """One checkpoint written from each layout, of the same state."""
    folders = {}
    for name, n in LAYOUTS:
        m = mapper(name, n)
        state = toy.run(mapper("auto", 1), steps=3)[0]
        folder = tmp_path_factory.mktemp("ckpt")
        checkpoints = Checkpoints(folder)
        checkpoints.save(m.logical(m.place(state)), step=3, meta={"note": "kept"})
        checkpoints.close()
        folders[name, n] = folder
    return folders, toy.run(mapper("auto", 1), steps=3)[0]


@pytest.mark.parametrize(("source", "target"), list(itertools.product(LAYOUTS, LAYOUTS)))
def test_any_layout_restores_into_any_other(saved, source, target):
    folders, state = saved
    m = mapper(*target)
    shapes = jax.eval_shape(lambda: toy.setup()[2])
    checkpoints = Checkpoints(folders[source])
    restored = checkpoints.restore(m.restore_target(shapes), step=3)
    checkpoints.close()
    assert_same(state, restored)
    assert_same(state, m.logical(m.place(restored)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_resumed_is_uninterrupted(tmp_path, layout):
    m = mapper(*layout)
    expected, losses = toy.run(m, steps=5)
    first, _ = toy.run(m, steps=2)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(first, step=2, meta={})
    checkpoints.wait()
    restored = checkpoints.restore(m.restore_target(jax.eval_shape(lambda: toy.setup()[2])), step=2)
    resumed, tail = toy.run(m, steps=3, first=2, state=restored)
    checkpoints.close()
    assert tail == losses[2:]
    assert_same(expected, resumed)


def test_retention(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_every=4)
    state = toy.setup()[2]
    for step in range(1, 8):
        checkpoints.save(state, step=step, meta={})
    checkpoints.close()
    assert complete_steps(tmp_path) == [4, 6, 7]


def test_donating_the_state_after_an_asynchronous_save_does_not_touch_what_is_saved(tmp_path):
    m = mapper("auto", 1)
    step, frozen, state = toy.setup()
    before = jax.tree.map(np.array, state)
    mapped, placed = m.map(step), m.place(state)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(m.logical(placed), step=0, meta={})
    for number in range(3):
        placed, _ = mapped(placed, frozen, m.place_batch(toy.batch(number, 8, 1.0)), jax.random.key(0))
    restored = checkpoints.restore(m.restore_target(jax.eval_shape(lambda: toy.setup()[2])), step=0)
    checkpoints.close()
    assert_same(before, restored)


def test_weights_and_meta_are_read_alone(saved):
    folders, state = saved
    folder = folders["fsdp", 8]
    assert read_meta(folder, 3) == {"note": "kept", "step": 3}
    assert_same(state.trainable, read_weights(folder, 3, ema=False))
    assert_same(state.ema, read_weights(folder, 3, ema=True))
    with pytest.raises(InputError, match="ema_decay"):
        shutil.rmtree(folder / "3" / "ema")
        read_weights(folder, 3, ema=True)


def test_half_written_and_stray_folders_are_no_checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(toy.setup()[2], step=2, meta={})
    checkpoints.close()
    (tmp_path / "9").mkdir()
    (tmp_path / "7.orbax-checkpoint-tmp").mkdir()
    assert complete_steps(tmp_path) == [2]
    assert Checkpoints(tmp_path).steps() == [2]


def test_saving_goes_on_after_a_stray_folder(tmp_path):
    """A junk folder 9/ must not make Orbax refuse the steps below it in silence."""
    (tmp_path / "9").mkdir()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(toy.setup()[2], step=2, meta={})
    checkpoints.close()
    assert complete_steps(tmp_path) == [2]


def test_a_damaged_checkpoint_is_one_clear_line(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(toy.setup()[2], step=2, meta={})
    checkpoints.wait()
    for chunk in (tmp_path / "2" / "trainable").rglob("d/*"):
        chunk.write_bytes(b"\0" * 7)
    m = mapper("auto", 1)
    with pytest.raises(InputError, match="cannot read the checkpoint .*2"):
        checkpoints.restore(m.restore_target(jax.eval_shape(lambda: toy.setup()[2])), step=2)


def test_a_full_disk_is_one_clear_line_and_keeps_what_was_saved(tmp_path):
    """A limit on file sizes makes the writes fail as a full disk does."""
    checkpoints = Checkpoints(tmp_path)
    state = toy.setup()[2]
    checkpoints.save(state, step=2, meta={})
    checkpoints.wait()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot write to .*full disk\? what was saved before is intact"):
            checkpoints.save(state, step=4, meta={})
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert complete_steps(tmp_path) == [2]
    # Orbax's abandoned writes go on for a moment, so that saving step 4 again is for the next process to do.
    assert_same(state.trainable, read_weights(tmp_path, 2, ema=False))
