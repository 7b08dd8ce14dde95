# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import itertools
import re
import resource
import shutil
from contextlib import closing

import jax
import numpy as np
import pytest

from dreambooth_jax.errors import InputError
from dreambooth_jax.target import Target
from dreambooth_jax.training.checkpoint import Checkpoints, complete_steps, is_good, read_meta, read_weights
from dreambooth_jax.training.parallel import make_mapper
from dreambooth_jax.training.state import TrainState
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


@pytest.mark.parametrize("layout", LAYOUTS)
def test_writing_compiles_nothing(tmp_path, layout):
    """Of what all devices hold Orbax would compile a slice for each shape and device."""
    state, _ = toy.run(mapper(*layout), steps=1)
    compiles = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, _, **__: compiles.append(name) if name == "/jax/core/compile/backend_compile_duration" else None
    )
    jax.clear_caches()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, step=1, meta={})
    checkpoints.close()
    assert not compiles


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


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """Checkpoints of steps 2 and 4, and the state of the second."""
    folder = tmp_path_factory.mktemp("two")
    state = toy.setup()[2]
    newer = jax.tree.map(lambda leaf: leaf + 1, state).replace(step=np.int32(4))
    with closing(Checkpoints(folder, keep_last=2)) as checkpoints:
        checkpoints.save(state, step=2, meta={"note": "kept"})
        checkpoints.save(newer, step=4, meta={"note": "kept"})
    return folder, newer


FILES = [
    *("_CHECKPOINT_METADATA", "meta/metadata", "meta/_METADATA"),
    *(f"{item}/{name}" for item in ("trainable", "opt_state", "ema") for name in ("_METADATA", "_sharding", "d/*")),
    *("trainable/manifest.ocdbt", "trainable/ocdbt.process_0/*", "trainable/array_metadatas/process_0"),
]


@pytest.mark.parametrize("spoil", ["emptied", "halved", "gone"])
@pytest.mark.parametrize("pattern", FILES)
def test_a_damaged_checkpoint_is_one_line_that_offers_a_good_one_or_does_no_harm(tmp_path, two_steps, pattern, spoil):
    whole, state = two_steps
    folder = tmp_path / "checkpoints"
    shutil.copytree(whole, folder)
    for file in sorted((folder / "4").glob(pattern)):
        content = file.read_bytes() if file.is_file() else b""
        if file.is_file():
            file.write_bytes(content[: len(content) // 2 if spoil == "halved" else 0])
        if spoil == "gone" and file.is_file():
            file.unlink()
    if max(complete_steps(folder)) == 2:
        return  # it does not pass for one at all: the run goes on from the one before
    refused = []
    for read in (lambda: _restored(folder), lambda: read_meta(folder, 4), lambda: read_weights(folder, 4, ema=True)):
        try:
            found = read()
        except InputError as error:
            refused.append(str(error))
            continue
        if isinstance(found, TrainState):
            assert_same(state, found)
        else:
            assert found == {"note": "kept", "step": 4} or assert_same(state.ema, found) is None
    for line in refused:
        assert re.search(r"cannot read the checkpoint of step 4, .*/4 \(.+\); step 2 is good: delete .*--step 2$", line)


def _restored(folder):
    target = mapper("auto", 1).restore_target(jax.eval_shape(lambda: toy.setup()[2]))
    with closing(Checkpoints(folder, keep_last=2)) as checkpoints:
        return checkpoints.restore(target, step=4)


def test_what_is_damaged_is_seen(tmp_path, two_steps):
    """The test above would pass if nothing were ever refused."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(two_steps[0], folder)
    assert is_good(folder, 2)
    assert is_good(folder, 4)
    for file in (folder / "4" / "opt_state").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:-7])
    assert not is_good(folder, 4)
    with pytest.raises(InputError, match=r"cannot read the checkpoint of step 4.*step 2 is good"):
        _restored(folder)
    shutil.rmtree(folder / "2")
    with pytest.raises(InputError, match="no other checkpoint can be read"):
        _restored(folder)


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
