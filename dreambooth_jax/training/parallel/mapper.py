# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What it takes to run a step on several devices, of one process or of several.

A step comes in two parts: gradients, whose losses are sums over the examples that they are given, and an update. A
mapper runs the first on every device's share of the examples, adds up over devices, and runs the second:

    Replicated (pmap)   state and frozen copied to every device, gradients added up (psum)
    Sharded (jit)       a mesh (data, fsdp); parameters and moments split along fsdp, gathered layer by layer;
                        gradients are added up and split again (psum_scatter)

Both take and give the same *logical* state, so a checkpoint of one restores into the other.
The devices are those of all processes, a process's own side by side: so the rows of a batch that a process needs are a
slice, which it draws itself, and fsdp groups lie within a host as long as they are no larger than its devices.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.typing import DTypeLike

from dreambooth_jax.target import Target
from dreambooth_jax.trees import Tree

Boxing = Callable[[Tree], Tree]
"""Inside a mapped program: leaves that are split over devices -> boxes that layers open (``models/parts.py``)."""


@runtime_checkable
class Step(Protocol):
    """A training step that a mapper can spread (``training/step.py``)."""

    @property
    def active(self) -> Sequence[str]:
        """Groups of ``trainable`` that have gradients."""
        ...

    @property
    def dtype(self) -> DTypeLike | None:
        """What kernels may be rounded to before they are gathered, because the step does so anyway; or None."""
        ...

    def gradients(
        self,
        trainable: Tree,
        frozen: Tree,
        batch: Any,
        root_key: jax.Array,
        step: jax.Array,
        *,
        parts_of_trainable: Boxing = ...,
        parts_of_frozen: Boxing = ...,
    ) -> tuple[Tree, dict[str, jax.Array]]:
        """(gradients, metrics) of some examples; both add up over disjoint sets of examples."""
        ...

    def update(self, state: Any, grads: Tree, metrics: dict[str, jax.Array]) -> tuple[Any, dict[str, jax.Array]]:
        """(next state, all metrics) from sums over all examples."""
        ...


@runtime_checkable
class MappedStep(Protocol):
    """``step(state, frozen, batch, root_key) -> (state, metrics)`` over devices.

    ``lower`` takes shapes (:meth:`Mapper.shapes`, :meth:`Mapper.batch_shapes`) in the place of arrays; what is compiled
    from it is what a call with such arrays runs, so that nothing is compiled twice.
    """

    def __call__(
        self, state: Any, frozen: Any, batch: Any, root_key: jax.Array, /
    ) -> tuple[Any, dict[str, jax.Array]]: ...

    def lower(self, state: Any, frozen: Any, batch: Any, root_key: Any, /) -> jax.stages.Lowered: ...


@runtime_checkable
class Mapper(Protocol):
    """How a step is spread over devices."""

    @property
    def target(self) -> Target:
        """The devices."""
        ...

    @property
    def devices(self) -> Sequence[jax.Device]:
        """All of them, of all processes."""
        ...

    def load(self, name: str, array: np.ndarray) -> jax.Array:
        """A leaf that was read from a file -> logical, on this process's devices or its part of them."""
        ...

    def place(self, tree: Any) -> Any:
        """Logical arrays (state or frozen parameters) -> where the mapped step wants them. What is there already is
        not copied."""
        ...

    def rows(self, count: int) -> slice:
        """Those of ``count`` rows of a global batch that this process has to bring."""
        ...

    def place_batch(self, batch: Any) -> Any:
        """This process's rows of a batch, or of each part of one -> on their devices. Asynchronous."""
        ...

    def map(self, step: Step) -> MappedStep:
        """Compile ``step`` for all devices. The old state is donated; metrics come back as logical scalars."""
        ...

    def logical(self, placed: Any) -> Any:
        """The inverse of ``place``, without a copy: what a checkpoint stores."""
        ...

    def restore_target(self, shapes: Any) -> Any:
        """Logical shapes with the shardings that a checkpoint should be read into."""
        ...

    def shapes(self, shapes: Any) -> Any:
        """Logical shapes -> those of what ``place`` makes of such arrays, with their shardings."""
        ...

    def batch_shapes(self, batch: Any) -> Any:
        """Shapes of a global batch -> those of what ``place_batch`` makes of it, with their shardings."""
        ...


def own_rows(target: Target, count: int) -> slice:
    """Rows of this process: a share for each of its devices."""
    own = [place for place, device in enumerate(target.devices) if device.process_index == target.process]
    share = count // len(target.devices)
    return slice(own[0] * share, (own[-1] + 1) * share)


def with_shardings(shapes: Any, sharding_of: Callable[[Any], jax.sharding.NamedSharding]) -> Any:
    """Shapes, each with the sharding that it is given."""
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding_of(s)), shapes)
