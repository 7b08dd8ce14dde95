# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The program that makes pictures: text encoder, guided sampler and decoder, as one pure function.

ids -> condition ─┐
latents ──────────┴─> sampler(guided(UNet)) -> latents -> decoder -> pictures

It runs any stretch of a sampler's rows, from the registers that the stretch before left. The decoder runs after the
last row. So previews, and noise that is drawn outside, need no second program; what they cost is that each stretch
encodes the prompts again, a hundredth of a step's work or so.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Integer, Key

from dreambooth_jax import rng
from dreambooth_jax.diffusion.guidance import guided
from dreambooth_jax.diffusion.loop import GivenNoise, Registers, advance, begin
from dreambooth_jax.diffusion.table import Rows as TableRows
from dreambooth_jax.diffusion.table import SamplerTable
from dreambooth_jax.models.condition import Condition, Conditioner
from dreambooth_jax.pipeline.conditioning import Said, chosen, conditions_of
from dreambooth_jax.pipeline.control import Guide, look, tell
from dreambooth_jax.trees import Tree


class Networks(NamedTuple):
    """What the program is made of. Hashable, so that it may be a static argument."""

    unet: nn.Module
    vae: nn.Module | None
    """None where pictures are decoded elsewhere."""
    conditioner: Conditioner
    guides: tuple[Guide, ...] = ()
    """What else the denoiser is guided by; their parameters are ``params["guides"]``."""


class CanvasLatents(NamedTuple):
    """What a run knows of given pictures and masks; all of it is scaled latents, or as large as they are."""

    start: Float[Array, "b h w c"] | None = None
    """What the run starts from, once the noise is added."""
    kept: Float[Array, "b h w c"] | None = None
    """What the result is where ``mask`` is 0."""
    mask: Float[Array, "b h w 1"] | None = None
    """1 where ``kept`` does not count."""
    channels: Float[Array, "b h w k"] | None = None
    """What the denoiser is told beside x, position by position."""
    labels: Int[Array, "b"] | None = None
    """What it is told beside the timestep."""


class Rows(NamedTuple):
    """What each picture has of its own. What a call does not have is None, and has no place in its program."""

    ids: Mapping[str, Int[Array | np.ndarray, "b *texts_and_chunks s"]]
    """For each text encoder; of v texts of k chunks, [b, v, k, s], where there are weights of tokens."""
    negative_ids: Mapping[str, Int[Array | np.ndarray, "b *texts_and_chunks s"]]
    latents: Float[Array, "b h w c"]
    """Standard normal noise that the run starts from."""
    keys: Key[Array, "b"]
    registers: Registers
    """What the rows before left; does not count at the first row."""
    noise: Float[Array | np.ndarray, "b h w c"]
    """Z of the row that needs it, if ``Shared.noise_counts``."""
    canvas: CanvasLatents = CanvasLatents()
    """Of given pictures and masks."""
    sizes: Mapping[str, Float[Array | np.ndarray, "b s"]] | None = None
    """What the denoiser is told of them beside the prompt, and beside the negative one."""
    silent: Bool[Array | np.ndarray, "b"] | None = None
    """Whose negative prompts are no text at all, of which nothing is said, not even what the text encoders say."""
    given: tuple[Any, ...] = ()
    """What each guide looks at."""
    token_weights: Mapping[str, Float[Array | np.ndarray, "b v k s"]] | None = None
    """Of prompts that have them, of several texts or of several chunks."""
    negative_token_weights: Mapping[str, Float[Array | np.ndarray, "b v k s"]] | None = None
    choice: Int[Array | np.ndarray, "b 2 rows"] | None = None
    """Which of its texts the prompt is at each row of the table, and which the negative prompt."""


class Shared(NamedTuple):
    """What all pictures of a call have in common and the program is not compiled anew for."""

    table: SamplerTable
    guidance_scale: Float[np.ndarray | Array, ""]
    guidance_rescale: Float[np.ndarray | Array, ""]
    first: Int[np.ndarray | Array, ""]
    """Row of the table to begin with."""
    last: Int[np.ndarray | Array, ""]
    """Row to stop before; all that there are, if it is more."""
    noise_counts: Bool[np.ndarray | Array, ""]
    """Whether noise comes from outside, not from the keys."""
    restore_mean: Bool[np.ndarray | Array, ""]
    """Of weighted prompts."""
    weights: Float[np.ndarray | Array, "rows guides"] | None = None
    """How much each guide counts at each row of the table."""


class OfRow(NamedTuple):
    """What the denoiser is told at a row of the table, where it is not the same at all."""

    choice: Int[Array, "*rows b 2"] | None
    weights: Float[Array, "*rows guides"] | None


def generate(
    networks: Networks, with_guidance: bool, params: Tree, rows: Rows, shared: Shared
) -> tuple[Registers, Float[Array, "b H W 3"]]:
    """(registers after the stretch of rows, pictures in [0, 1] of its x if it is the last one, else zeros)."""

    guides, guide_params = networks.guides, params.get("guides", ())
    sides = look(guides, guide_params, rows.given)
    said = {"text": Said(rows.ids, rows.token_weights)}
    if with_guidance:
        said["negative"] = Said(rows.negative_ids, rows.negative_token_weights)
    conditions = conditions_of(networks.conditioner, params, said, restore_mean=shared.restore_mean)
    if with_guidance:
        conditions["negative"] = conditions["negative"].silenced(rows.silent)

    def denoiser(row: OfRow) -> Callable[[Array, Array], Array]:
        def network(x: Array, t: Array, told: tuple[Condition, tuple, Array | None]) -> Array:
            condition, seen, channels = told
            times = jnp.full(len(x), t)
            if row.weights is not None:
                condition = tell(guides, guide_params, x, times, condition, seen, row.weights)
            x = x if channels is None else jnp.concatenate([x, channels.astype(x.dtype)], axis=-1)
            return apply(networks.unet, None, params["unet"], x, times, condition)

        now = conditions if row.choice is None else chosen(conditions, row.choice)
        told = {
            name: (condition._replace(**_of_pictures(networks, rows, shared, name)), sides[name], rows.canvas.channels)
            for name, condition in now.items()
        }
        scale, rescale = shared.guidance_scale, shared.guidance_rescale
        return guided(network, text=told["text"], negative=told.get("negative"), scale=scale, rescale=rescale)

    def of_row(x: Array, t: Array, row: OfRow) -> Array:
        return denoiser(row)(x, t)

    choice = None if rows.choice is None else jnp.moveaxis(rows.choice, -1, 0)
    per_row = OfRow(choice, None if shared.weights is None else jnp.asarray(shared.weights))
    same = not jax.tree.leaves(per_row)
    registers = advance(
        denoiser(per_row) if same else of_row,
        jax.lax.cond(shared.first == 0, lambda: begin(_first(rows, shared.table)), lambda: rows.registers),
        shared.table,
        first=shared.first,
        last=shared.last,
        keys=rows.keys,
        project=None if rows.canvas.kept is None else partial(_keep, rows),
        given=GivenNoise(jnp.asarray(rows.noise), shared.noise_counts),
        per_row=None if same else per_row,
    )

    def pictures() -> Array:
        if networks.vae is None:
            return jnp.zeros((len(registers.x), 0, 0, 3), registers.x.dtype)
        return _pictures(networks.vae, params["vae"], registers.x)

    def nothing() -> Array:
        return jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), jax.eval_shape(pictures))

    return registers, jax.lax.cond(shared.last >= shared.table.length, pictures, nothing)


def _of_pictures(networks: Networks, rows: Rows, shared: Shared, side: str) -> dict[str, Any]:
    """What a denoiser is told on a side of guidance whatever the prompts say: fields of a condition."""
    guidance = jnp.full(len(rows.latents), shared.guidance_scale - 1) if networks.unet.config.takes_guidance else None
    sizes = None if rows.sizes is None else jnp.asarray(rows.sizes[side])
    return {"labels": rows.canvas.labels, "sizes": sizes, "guidance": guidance}


def _first(rows: Rows, table: SamplerTable) -> Float[Array, "b h w c"]:
    """x at the level of the table's first row."""
    noise, dtype = rows.latents, rows.latents.dtype
    if rows.canvas.start is None:
        return noise * table.noise.astype(dtype)
    alpha, sigma = (jnp.asarray(column[0], dtype) for column in (table.rows.alpha, table.rows.sigma))
    return alpha * rows.canvas.start.astype(dtype) + sigma * noise


def _keep(rows: Rows, x: Float[Array, "b h w c"], row: TableRows) -> Float[Array, "b h w c"]:
    """x, but outside the mask the given picture at the level that x has: with the noise of the run's beginning.

    After the last row it is the picture itself, as diffusers has it: the result is taken for clean, also where a table
    ends at the least noisy level instead.
    """
    kept, mask = (jnp.asarray(part, x.dtype) for part in (rows.canvas.kept, rows.canvas.mask))
    ended = row.q == 0  # of the rows that follow the last call of the network
    alpha, sigma = jnp.where(ended, 1, row.alpha), jnp.where(ended, 0, row.sigma)
    return jnp.where(mask > 0, x, alpha * kept + sigma * rows.latents)


def _pictures(vae: nn.Module, params: Tree, latents: Float[Array, "b h w c"]) -> Float[Array, "b H W 3"]:
    """In [0, 1]."""

    def decode(latents: Array) -> Array:
        return apply(vae, "decode", params, latents[None] / vae.config.scaling_factor)[0]

    # One at a time: a picture at full size keeps a device busy, and several need more memory than all that came before.
    return jnp.clip(jax.lax.map(decode, latents) / 2 + 0.5, 0, 1)


def encode(conditioner: Conditioner, params: Tree, ids: Mapping[str, Int[Array, "b s"]]) -> Condition:
    """What the denoiser is told of token ids."""
    return conditioner(params, ids)


def apply(module: nn.Module, method: str | None, params: Tree, *inputs: Any) -> Any:
    """What a module, or one of its methods, makes of its inputs."""
    return module.apply({"params": params}, *inputs, method=method)


@partial(jax.jit, static_argnames="shape")
def draw_latents(
    seeds: Integer[Array | np.ndarray, "b"], *, shape: tuple[int, ...]
) -> tuple[Key[Array, "b"], Float[Array, "b h w c"]]:
    """(keys, normal latents) of pictures."""
    keys = jax.vmap(rng.root_key)(seeds)
    draw = partial(jax.random.normal, shape=shape[1:], dtype=jnp.float32)
    return keys, jax.vmap(lambda key: draw(rng.stream(key, "latents")))(keys)
