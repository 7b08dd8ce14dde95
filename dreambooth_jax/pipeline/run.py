# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A sampler's rows in one stretch or in several, all by one program.

Without anybody who looks on, and with our own noise, it is one stretch. Whoever looks on gets a stretch for each row;
noise of another tool is drawn here and given to the row that needs it, so that each of these ends a stretch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from dreambooth_jax.diffusion.loop import Registers
from dreambooth_jax.diffusion.table import SamplerTable
from dreambooth_jax.pipeline.generate import Networks, Rows, Shared, generate
from dreambooth_jax.pipeline.noise import ToolNoise
from dreambooth_jax.pipeline.texts import by_length
from dreambooth_jax.training.parallel.sharding import map_rows
from dreambooth_jax.trees import Tree


class Step(NamedTuple):
    """How far a run is."""

    done: int
    """Calls of the network."""
    total: int
    denoised: Float[Array, "b h w c"]
    """Latents as the network now believes that they will be."""


OnStep: TypeAlias = Callable[[Step], Any]


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a table is run.

    Attributes:
        mesh: devices.
        static: what is compiled in.
        shared: what all pictures have in common, for the whole run.
        noise: of another tool, in the place of what is drawn from keys.
        lengths: chunks that each picture's prompts have; by default all have as many.
        on_step: who looks on.
    """

    mesh: Mesh
    static: tuple[Networks, bool]
    shared: Shared
    noise: ToolNoise | None = None
    lengths: Int[np.ndarray, "b"] | None = None
    on_step: OnStep | None = None

    def __call__(self, params: Tree, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """(final latents, pictures in [0, 1])."""
        params = jax.device_put(params, NamedSharding(self.mesh, PartitionSpec()))
        total = int(self.shared.table.length)
        needing = rows_with_noise(self.shared.table) if self.noise else []
        first, registers, images = 0, rows.registers, None
        for last in stretches(total, needing, each=self.on_step is not None):
            noise = self.noise.next() if self.noise and last - 1 in needing else rows.noise
            registers, images = self._stretch(
                params,
                rows._replace(registers=registers, noise=np.asarray(noise, rows.noise.dtype)),
                self.shared._replace(first=np.asarray(first, np.int32), last=np.asarray(last, np.int32)),
            )
            first = last
            if self.on_step:
                self.on_step(Step(last, total, registers.denoised))
        return np.asarray(registers.x), np.asarray(images)

    def _stretch(self, params: Tree, rows: Rows, shared: Shared) -> tuple[Registers, Float[Array, "b H W 3"]]:
        """Some rows of the table, for all pictures: those whose prompts are of one length together."""
        run = partial(map_rows, self.mesh, generate, self.static, params)
        if self.lengths is None or len(np.unique(self.lengths)) == 1:
            return run(rows, shared)
        numbers, parts = zip(*((numbers, run(some, shared)) for numbers, some in by_length(rows, self.lengths)))
        order = np.argsort(np.concatenate(numbers))
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[order], *parts)


def rows_with_noise(table: SamplerTable) -> list[int]:
    """Numbers of the rows that draw noise."""
    drawing = np.any(np.asarray(table.rows.matrix)[: int(table.length), :, 6] != 0, axis=1)
    return np.flatnonzero(drawing).tolist()


def stretches(total: int, needing: list[int], *, each: bool) -> list[int]:
    """Where the stretches of a run end: after every row, or after those that need noise from outside."""
    return list(range(1, total + 1)) if each else sorted({*(row + 1 for row in needing), total})
