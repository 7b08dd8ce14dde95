# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The one loop that runs every sampler, whatever network stands behind it.

All that tells samplers, numbers of steps, schedules, eta and prediction types apart is numbers of the table, which are
traced: one program runs them all.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from dreambooth_jax import rng
from dreambooth_jax.diffusion.table import Rows, SamplerTable

Latents: TypeAlias = Float[Array, "b *shape"]
Denoise: TypeAlias = Callable[..., Latents]
RowNumber: TypeAlias = int | Int[np.ndarray | Array, ""]
Project: TypeAlias = Callable[[Latents, Rows], Latents]

NOISE = "ddim"
"""The key stream of Z: the name of the first sampler there was, so that old seeds give the same pictures."""


class Registers(NamedTuple):
    """What is carried from row to row."""

    x: Latents
    """The noisy examples, x = α x_0 + σ ε."""
    r1: Latents
    r2: Latents
    r3: Latents
    """What the method remembers."""
    denoised: Latents
    """x_0 as the last row saw it: a preview."""


class GivenNoise(NamedTuple):
    """Z from outside, in the place of what is drawn."""

    values: Latents
    """Of all rows that are run: of one that needs noise, or more that don't."""
    counts: Bool[np.ndarray | Array, ""]
    """Whether it is taken; may be traced, so that one program does both."""


def begin(x: Latents) -> Registers:
    """The registers at the first row of a table."""
    nothing = jnp.zeros_like(x)
    return Registers(x, nothing, nothing, nothing, nothing)


def sample(
    network: Denoise, x: Latents, table: SamplerTable, *, keys: Key[Array, "b"], project: Project | None = None
) -> Latents:
    """A whole run, from noise to data.

    Args:
        network: prediction for noisy examples at one timestep, a real number in the dtype of x.
        x: at the level of the first row: standard normal for a run from pure noise.
        table: of :func:`~dreambooth_jax.diffusion.samplers.build_table`.
        keys: one per example; Z of row i is drawn from its stream NOISE, i, by rows that need it.
        project: as in :func:`advance`.
    """
    return advance(network, begin(x), table, first=0, last=table.length, keys=keys, project=project).x


def advance(
    network: Denoise,
    registers: Registers,
    table: SamplerTable,
    *,
    first: RowNumber,
    last: RowNumber,
    keys: Key[Array, "b"],
    project: Project | None = None,
    given: GivenNoise | None = None,
    per_row: Any = None,
) -> Registers:
    """Rows first to last − 1 of a run. In one program, a run in parts is the whole run bit for bit.

    Args:
        network: as in :func:`sample`.
        registers: of :func:`begin`, or what the rows before left.
        table: the same for all parts.
        first: may be traced.
        last: may be traced; no more than ``table.length`` rows are run.
        keys: as in :func:`sample`.
        project: ``project(x, row)`` is put in the place of x after each row; ``row`` is the one that x enters next,
            whose ``alpha`` and ``sigma`` are the level that x now has.
        given: Z, for the noise of other tools.
        per_row: a pytree whose leaves have an entry for each row of the table. The network is given those of its row
            as a third argument: what it is told changes in the course of a run.
    """
    dtype = registers.x.dtype
    rows = jax.tree.map(lambda column: jnp.asarray(column, dtype), table.rows)
    clip = jnp.asarray(table.clip, dtype)

    def body(i: Int[Array, ""], registers: Registers) -> Registers:
        row = rows.at(i)
        told = () if per_row is None else (jax.tree.map(lambda leaf: leaf[i], per_row),)
        prediction = network(registers.x, row.t, *told)
        denoised = jnp.clip(row.p * registers.x + row.q * prediction, -clip, clip)
        noise = _noise(keys, i, like=registers.x, needed=jnp.any(row.matrix[:, 6] != 0), given=given)
        terms = (*registers[:4], denoised, prediction, noise)
        # written out, because a matrix product may be of lower precision
        x, r1, r2, r3 = (sum(row.matrix[j, c] * term for c, term in enumerate(terms)) for j in range(4))
        return Registers(project(x, rows.at(i + 1)) if project else x, r1, r2, r3, denoised)

    return jax.lax.fori_loop(first, jnp.minimum(last, table.length), body, registers)


def _noise(
    keys: Key[Array, "b"], i: Int[Array, ""], *, like: Latents, needed: Array, given: GivenNoise | None
) -> Latents:
    """Normal noise, each example's of its own key. Drawing costs more than all else of a row, so only where needed."""

    def draw(key: Key[Array, ""]) -> Float[Array, "*shape"]:
        return jax.random.normal(rng.stream(key, NOISE, i), like.shape[1:], like.dtype)

    def nothing() -> Latents:
        return jnp.zeros_like(like)

    def drawn() -> Latents:
        return jax.vmap(draw)(keys)

    if given is None:
        return jax.lax.cond(needed, drawn, nothing)
    which = jnp.where(needed, 1 + jnp.asarray(given.counts, jnp.int32), 0)
    return jax.lax.switch(which, [nothing, drawn, lambda: given.values.astype(like.dtype)])
