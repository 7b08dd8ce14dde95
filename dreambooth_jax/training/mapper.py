# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What it takes to run a step on several devices, of one process or of several.

*Logical* arrays have no trace of devices in their shape: what a checkpoint stores. *Placed* ones are as the mapped step
wants them.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

StepFn = Callable[..., tuple[Any, dict[str, jax.Array]]]


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
    def devices(self) -> Sequence[jax.Device]:
        """All devices, of all processes."""
        ...

    def load(self, name: str, array: np.ndarray) -> jax.Array:
        """A leaf that was read from a file -> logical, on this process's devices or its part of them."""
        ...

    def place(self, tree: Any) -> Any:
        """Logical arrays (state or frozen parameters) -> where the mapped step wants them."""
        ...

    def rows(self, count: int) -> slice:
        """Those of ``count`` rows of a global batch that this process has to bring."""
        ...

    def place_batch(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """This process's rows of a batch -> on their devices. Asynchronous."""
        ...

    def map(self, step: StepFn) -> MappedStep:
        """Compile ``step`` for all devices. The old state is donated; metrics come back as logical scalars."""
        ...

    def logical(self, placed: Any) -> Any:
        """The inverse of ``place``, without a copy to the host: what a checkpoint stores."""
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
