# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A sampler's rows in one stretch or in several, all by one program.

Without anybody who looks on, and with our own noise, it is one stretch. Whoever looks on gets a stretch for each row;
noise of another tool is drawn here and given to the row that needs it, so that each of these ends a stretch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from dreambooth_jax.diffusion.loop import Registers, begin
from dreambooth_jax.diffusion.table import SamplerTable
from dreambooth_jax.pipeline.generate import Networks, Rows, Shared, generate
from dreambooth_jax.pipeline.noise import ToolNoise
from dreambooth_jax.pipeline.texts import by_length
from dreambooth_jax.training.parallel.sharding import map_rows, placed
from dreambooth_jax.trees import Tree


class Step(NamedTuple):
    """How far a run is."""

    done: int
    """Calls of the network."""
    total: int
    denoised: Float[Array, "b h w c"]
    """Latents as the network now believes that they will be."""


OnStep: TypeAlias = Callable[[Step], Any]


class Leg(NamedTuple):
    """What one model does of a run, with the table of the whole run.

    Attributes:
        static: what is compiled in.
        shared: what all pictures have in common.
        rows: what each picture has of its own.
        params: of the model.
        lengths: chunks that each picture's prompts have.
        until: row of the table to stop before.
        afresh: it begins with x alone, without what the method remembers of the rows before.
    """

    static: tuple[Networks, bool]
    shared: Shared
    rows: Rows
    params: Tree
    lengths: Int[np.ndarray, "b"]
    until: int
    afresh: bool = False


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a table is run.

    Attributes:
        mesh: devices.
        noise: of another tool, in the place of what is drawn from keys.
        on_step: who looks on.
    """

    mesh: Mesh
    noise: ToolNoise | None = None
    on_step: OnStep | None = None

    def __call__(self, legs: Sequence[Leg]) -> tuple[np.ndarray, np.ndarray]:
        """(final latents, pictures in [0, 1]) of legs that follow each other; those without a row do nothing."""
        first, registers, images = 0, legs[0].rows.registers, None
        for leg in legs:
            if leg.until > first:
                registers, images = self._leg(leg, first, begin(registers.x) if leg.afresh else registers)
                first = leg.until
        return np.asarray(registers.x), np.asarray(images)

    def _leg(self, leg: Leg, first: int, registers: Registers) -> tuple[Registers, Float[Array, "b H W 3"] | None]:
        params = placed(leg.params, self.mesh)
        total, dtype, images = int(leg.shared.table.length), leg.rows.noise.dtype, None
        needing = [row for row in rows_with_noise(leg.shared.table) if row >= first] if self.noise else []
        for last in stretches(first, leg.until, needing, each=self.on_step is not None):
            noise = self.noise.next() if self.noise and last - 1 in needing else leg.rows.noise
            registers, images = self._stretch(
                leg,
                params,
                leg.rows._replace(registers=registers, noise=np.asarray(noise, dtype)),
                leg.shared._replace(first=np.asarray(first, np.int32), last=np.asarray(last, np.int32)),
            )
            first = last
            if self.on_step:
                self.on_step(Step(last, total, registers.denoised))
        return registers, images

    def _stretch(self, leg: Leg, params: Tree, rows: Rows, shared: Shared) -> tuple[Registers, Float[Array, "b H W 3"]]:
        """Some rows of the table, for all pictures: those whose prompts are of one length together."""
        run = partial(map_rows, self.mesh, generate, leg.static, params)
        if len(np.unique(leg.lengths)) == 1:
            return run(rows, shared)
        numbers, parts = zip(*((numbers, run(some, shared)) for numbers, some in by_length(rows, leg.lengths)))
        order = np.argsort(np.concatenate(numbers))
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[order], *parts)


def rows_with_noise(table: SamplerTable) -> list[int]:
    """Numbers of the rows that draw noise."""
    drawing = np.any(np.asarray(table.rows.matrix)[: int(table.length), :, 6] != 0, axis=1)
    return np.flatnonzero(drawing).tolist()


def stretches(first: int, until: int, needing: list[int], *, each: bool) -> list[int]:
    """Where the stretches of a leg end: after every row, or after those that need noise from outside."""
    if each:
        return list(range(first + 1, until + 1))
    return sorted({*(row + 1 for row in needing if first <= row < until), until})
