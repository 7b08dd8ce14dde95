# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Checkpoints of the training state with Orbax: asynchronous, sharded as the state is, resumable anywhere.

    checkpoints/400/trainable   what the adapter trains         read alone by ``sample`` and ``export``
                   /ema         its average (if kept)
                   /opt_state   moments and step counts
                   /meta        step, resolved config, fingerprints of data and model

What is stored is the logical state, so that one written by pmap on eight devices is read by fsdp on two.
Orbax is imported here and nowhere else.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from dreambooth_jax.errors import InputError
from dreambooth_jax.training.state import TrainState
from dreambooth_jax.trees import Tree


class Superseded(InputError):
    """A checkpoint is gone: a run that goes on keeps only its newest."""


class Checkpoints:
    """The checkpoints of one run folder.

    Args:
        folder: made if it is not there.
        keep_last: how many of the newest stay.
        keep_every: multiples of this step stay for good.
        best: the step that stays, too, as it is at the time of asking; -1 for none.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        keep_last: int = 1,
        keep_every: int | None = None,
        best: Callable[[], int] = lambda: -1,
    ):
        self.folder = Path(folder).absolute()
        preserve: list[Any] = [policies.LatestN(keep_last), _Best(best)]
        if keep_every:
            preserve.append(policies.EveryNSteps(keep_every))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(preserve),
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def steps(self) -> list[int]:
        """Steps whose checkpoint was finished, in rising order."""
        return complete_steps(self.folder)

    def save(self, state: TrainState, *, step: int, meta: dict[str, Any], averaged: Tree | None = None) -> None:
        """Start writing; returns as soon as the values are safe from the next, donated, step.

        Args:
            state: logical state (:meth:`Mapper.logical`).
            step: its step, as a Python int: reading it from the state would wait for the device.
            meta: plain JSON values.
            averaged: weights to draw with, where the state has no moving average of its own but other weights than
                the trained ones are drawn with; stored as ``ema``, and not needed to go on.

        Raises:
            InputError: if this or the previous write failed, as on a full disk.
        """
        items = {
            "trainable": ocp.args.StandardSave(_one_of_each(state.trainable)),
            "opt_state": ocp.args.StandardSave(_one_of_each(state.opt_state)),
            "meta": ocp.args.JsonSave(meta | {"step": step}),
        }
        if ema := state.ema or averaged:
            items["ema"] = ocp.args.StandardSave(_one_of_each(ema))
        with self._writing():
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def restore(self, target: TrainState, *, step: int) -> TrainState:
        """The logical state at ``step``, with the shardings of ``target`` (:meth:`Mapper.restore_target`).

        Raises:
            InputError: if the checkpoint is damaged, naming the newest that is not.
        """
        items = {
            "trainable": ocp.args.StandardRestore(target.trainable),
            "opt_state": ocp.args.StandardRestore(target.opt_state),
        }
        if target.ema:
            items["ema"] = ocp.args.StandardRestore(target.ema)
        with _reading(self.folder, step):
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        leaf = jax.tree.leaves(target.trainable)[0]
        step_array = jax.device_put(jax.numpy.asarray(step, target.step.dtype), _whole(leaf.sharding))
        return TrainState(
            step=step_array,
            trainable=restored["trainable"],
            opt_state=restored["opt_state"],
            ema=restored["ema"] if target.ema else {},
        )

    def wait(self) -> None:
        """Until everything is on disk."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait and free the threads."""
        with self._writing():
            self._manager.close()

    def _writing(self) -> AbstractContextManager[None]:
        return _clear_errors(f"cannot write to {self.folder} (full disk? what was saved before is intact)")


class _Best(policies.PreservationPolicy):
    def __init__(self, best: Callable[[], int]):
        self.best = best

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        del context
        return [one.step == self.best() for one in checkpoints]


def complete_steps(folder: str | Path) -> list[int]:
    """Steps with a finished checkpoint. A half-written one, or a stray folder named by a number, does not count."""
    return sorted(
        int(path.name)
        for path in Path(folder).glob("*")
        if path.name.isdigit() and (path / "_CHECKPOINT_METADATA").exists() and (path / "meta" / "metadata").exists()
    )


def best_step(folder: str | Path) -> int:
    """The best step by ``checkpoint.keep_best``, or else by its validation loss, which must have a checkpoint.

    Raises:
        InputError: if none is known, or the best step was not kept.
    """
    steps = complete_steps(folder)
    meta = read_meta(folder, steps[-1])
    losses = {at: loss for at, loss in meta.get("validation", []) if at}
    step = meta.get("best", {}).get("step", -1)
    if step < 0 and not losses:
        raise InputError(f"{folder} has no validation loss to know the best step by: name a step of {steps}")
    if step < 0:
        step = min(losses, key=lambda at: losses[at])
    if step not in steps:
        raise InputError(
            f"{folder} was best at step {step}, which was not kept: train with checkpoint.keep_best=true, or name a "
            f"step of {steps}"
        )
    return step


def read_meta(folder: str | Path, step: int) -> dict[str, Any]:
    """What ``save`` was given as ``meta``.

    Raises:
        InputError: if it is damaged, naming the newest checkpoint that is not.
    """
    with _reading(folder, step):
        return _read_meta(folder, step)


def _read_meta(folder: str | Path, step: int) -> dict[str, Any]:
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        return dict(reader.restore(Path(folder).absolute() / str(step) / "meta"))


def read_weights(
    folder: str | Path, step: int, *, ema: bool, sharding: jax.sharding.Sharding | None = None
) -> dict[str, Any]:
    """``trainable``, or its moving average, as logical arrays.

    Args:
        folder: of the checkpoints.
        step: of the one to read.
        ema: the moving average.
        sharding: where arrays are put; by default the default device.

    Raises:
        InputError: if the moving average is asked for and was not kept, or the checkpoint is damaged.
    """
    path = Path(folder).absolute() / str(step) / ("ema" if ema else "trainable")
    if ema and path.parent.exists() and not path.exists():
        raise InputError(f"{path.parent} holds no moving average: it was trained with train.ema_decay 0")
    here = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with _reading(folder, step):
        return _read_item(folder, step, path.name, lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=here))


def _read_item(folder: str | Path, step: int, item: str, target: Callable[[Any], Any]) -> Any:
    """One of the trees of a checkpoint, each leaf as ``target`` of its shape and dtype wants it."""
    options = ocp.CheckpointManagerOptions(read_only=True)
    handlers = ocp.handlers.DefaultCheckpointHandlerRegistry()
    handlers.add(item, ocp.args.StandardRestore, ocp.StandardCheckpointHandler())
    with ocp.CheckpointManager(Path(folder).absolute(), options=options, handler_registry=handlers) as manager:
        stored = manager.item_metadata(step)[item]
        targets = jax.tree.map(target, dict(stored))
        return manager.restore(step, args=ocp.args.Composite(**{item: ocp.args.StandardRestore(targets)}))[item]


def _one_of_each(tree: Tree) -> Tree:
    """One device's copy of each leaf that all devices of the one host hold.

    Of such a leaf Orbax would have every device cut out a part and write that: a program to compile for each shape and
    device, hundreds before the first checkpoint, for a disk that is no faster. Several hosts do share the writing.
    """
    if jax.process_count() > 1:
        return tree
    return jax.tree.map(lambda leaf: leaf.addressable_data(0) if leaf.is_fully_replicated else leaf, tree)


def _whole(sharding: jax.sharding.Sharding) -> jax.sharding.Sharding:
    if isinstance(sharding, jax.sharding.NamedSharding):
        return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    return sharding


def is_good(folder: str | Path, step: int) -> bool:
    """Can all of a checkpoint be read? It is, one tree after the other, into the host's memory."""
    try:
        _read_meta(folder, step)
        for item in ("trainable", "opt_state", "ema"):
            if item != "ema" or (Path(folder) / str(step) / item).exists():
                _read_item(folder, step, item, lambda m: np.empty(m.shape, m.dtype))
    except Exception:  # whatever the libraries make of what a file holds
        return False
    return True


@contextmanager
def _reading(folder: str | Path, step: int) -> Iterator[None]:
    """Orbax and TensorStore fail in many ways on damaged files; the user gets one line with the way out."""
    try:
        yield
    except Exception as error:
        path = Path(folder) / str(step)
        if not path.exists():
            raise Superseded(f"the checkpoint of step {step} was removed while it was read: try again") from error
        others = (other for other in reversed(complete_steps(folder)) if other != step)
        good = next((other for other in others if is_good(folder, other)), None)
        way = (
            "delete that folder to begin anew: no other checkpoint can be read"
            if good is None
            else f"step {good} is good: delete {path} to go on from there, or name it with --step {good}"
        )
        raise InputError(f"cannot read the checkpoint of step {step}, {path} ({_cause(error)}); {way}") from error


@contextmanager
def _clear_errors(doing: str) -> Iterator[None]:
    """Orbax and TensorStore fail with whatever their threads met first; the user gets one line with the cause."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{doing}: {_cause(error)}") from error


def _cause(error: BaseException) -> str:
    """The first error of a chain, on one line."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return " ".join((str(error) or type(error).__name__).split())[:300]
