# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Several members by one step, beside as many steps of one that is alone: low-rank matrices, on the first device."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmark.inputs import RATE, examples
from benchmark.measure import Run
from benchmark.ours import CompiledStep, Ours, compile_timed, objective, step_batch
from dreambooth_jax import rng
from dreambooth_jax.adapters import Adapter, lora
from dreambooth_jax.adapters.ranks import Ranks
from dreambooth_jax.adapters.targets import choose_layers
from dreambooth_jax.target import Target
from dreambooth_jax.training.members import GroupInputs, MemberInputs, MemberStep, stack_members
from dreambooth_jax.training.optimizer import adamw
from dreambooth_jax.training.parallel import make_mapper, make_member_mapper
from dreambooth_jax.training.state import init_state


def member_makers(ours: Ours, *, count: int, batch: int, rank: int) -> dict[str, Callable[[], Run]]:
    """Peer -> how its work is made: a step of ``count`` members, in turn by one program and one after the other."""
    adapter = lora(choose_layers(unet=["attn-mlp"]), ranks=Ranks(rank))
    return {
        "ours": partial(_together, ours, adapter, count=count, batch=batch),
        "in turn": partial(_in_turn, ours, adapter, count=count, batch=batch),
    }


def members_name(count: int, batch: int) -> str:
    """As rows of the table are called."""
    return f"{count} members {batch}+{batch}"


def _in_turn(ours: Ours, adapter: Adapter, *, count: int, batch: int) -> Run:
    rows = step_batch(examples(ours.configs, 2 * batch), batch, text=False)
    mapper = make_mapper("fsdp", Target.of(jax.local_devices()[:1]))
    step = CompiledStep.of(ours.pipe, mapper, rows, n_instances=batch, text=False, adapter=adapter)

    def run() -> None:
        for _ in range(count):
            step.run()

    return run


def _together(ours: Ours, adapter: Adapter, *, count: int, batch: int) -> Run:
    rows = step_batch(examples(ours.configs, 2 * batch), batch, text=False)
    mapper = make_member_mapper("auto", Target.of(jax.local_devices()[:1]), members=count, rows=2 * batch)
    frozen, trainable = adapter.init(rng.root_key(0), {"unet": ours.pipe.params["unet"]})

    def optimizer(rates: jax.Array) -> optax.GradientTransformation:
        return adamw(lambda step: rates[step], group="unet")

    one = init_state(trainable, {"unet": optimizer(jnp.zeros(1))}, with_ema=False)
    step = MemberStep(
        objective=objective(ours.pipe, batch), adapter=adapter, optimizers={"unet": optimizer}, active=("unet",)
    )
    last = jnp.full(count, 2**30, jnp.int32)
    inputs = MemberInputs(
        keys=jax.vmap(rng.root_key)(jnp.arange(count)),
        steps=last,
        now=jnp.int32(0),
        groups={"unet": GroupInputs(jnp.zeros(count, jnp.int32), last, jnp.full((count, 1), RATE))},
    )
    state, frozen = mapper.place_members(stack_members([one] * count)), mapper.place(frozen)
    placed = mapper.place_batch({name: np.concatenate([values] * count) for name, values in rows.items()})
    compiled, ours.compiling[members_name(count, batch)] = compile_timed(
        mapper.map(step), state, frozen, placed, inputs
    )
    held, now = [state], iter(range(2**30))

    def run() -> None:
        held[0], metrics = compiled(held[0], frozen, placed, inputs._replace(now=jnp.int32(next(now))))
        jax.block_until_ready(metrics)

    return run
