# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Our side of every kind of work, on the first device."""

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmark.inputs import CLASS_PROMPT, GUIDANCE, RATE, Examples, examples
from benchmark.measure import Run
from dreambooth_jax import rng
from dreambooth_jax.adapters import Adapter, full, lora
from dreambooth_jax.adapters.ranks import Ranks
from dreambooth_jax.adapters.targets import choose_layers
from dreambooth_jax.diffusion.guidance import guided
from dreambooth_jax.diffusion.loop import sample
from dreambooth_jax.diffusion.samplers import build_table
from dreambooth_jax.flops import flops
from dreambooth_jax.memory import Usage
from dreambooth_jax.models.condition import Condition, id_leaves
from dreambooth_jax.pipeline import Pipeline, load_pretrained
from dreambooth_jax.target import Target
from dreambooth_jax.training.objective import DenoisingObjective, Draws
from dreambooth_jax.training.optimizer import adamw
from dreambooth_jax.training.parallel import Mapper, make_mapper
from dreambooth_jax.training.state import init_state
from dreambooth_jax.training.step import TrainStep
from dreambooth_jax.trees import shapes


class Ours:
    """dreambooth_jax.

    Args:
        folder: of the model.
        configs: of its parts.
    """

    def __init__(self, folder: Path, configs: dict[str, dict[str, Any]]):
        self.folder, self.configs = folder, configs
        self.flops: dict[str, int] = {}
        self.memory: dict[str, int] = {}
        self.compiling: dict[str, dict[str, float]] = {}

    @cached_property
    def pipe(self) -> Pipeline:
        """With its weights on every local device."""
        return load_pretrained(self.folder)

    def loss(self, batch: int, *, text: bool) -> float:
        """Of the examples as they are drawn."""
        drawn = examples(self.configs, 2 * batch)
        draws = Draws(jnp.asarray(drawn.latents), jnp.asarray(drawn.noise), jnp.asarray(drawn.timesteps))
        params = {group: self.pipe.params[group] for group in ("unet", "text_encoder")}
        batch_of = step_batch(drawn, batch, text=text)
        return float(jax.jit(objective(self.pipe, batch).loss)(params, batch_of, draws)[0])

    def step(self, batch: int, *, text: bool) -> Run:
        """One optimizer step on 2 · batch examples; the state stays on the device."""
        drawn = examples(self.configs, 2 * batch)
        mapper = make_mapper("fsdp", Target.of(jax.local_devices()[:1]))
        adapter = full("unet/.*", "text_encoder/.*") if text else full("unet/.*")
        rows = step_batch(drawn, batch, text=text)
        step = CompiledStep.of(self.pipe, mapper, rows, n_instances=batch, text=text, adapter=adapter)
        name = step_name(batch, text)
        self.flops[name], self.memory[name], self.compiling[name] = step.flops, step.usage.peak, step.compiling
        return step.run

    def lora_step(self, batch: int, rank: int) -> Run:
        """One optimizer step of low-rank matrices beside the layers of the UNet's transformers."""
        adapter = lora(choose_layers(unet=["attn-mlp"]), ranks=Ranks(rank))
        rows = step_batch(examples(self.configs, 2 * batch), batch, text=False)
        mapper = make_mapper("fsdp", Target.of(jax.local_devices()[:1]))
        step = CompiledStep.of(self.pipe, mapper, rows, n_instances=batch, text=False, adapter=adapter)
        name = f"lora-{step_name(batch, False)}"
        self.flops[name], self.memory[name], self.compiling[name] = step.flops, step.usage.peak, step.compiling
        return step.run

    def sampler(self, name: str, batch: int, steps: int) -> Run:
        """A guided run from noise, both halves of guidance in one call of the network."""
        drawn = examples(self.configs, 2 * batch)
        text, negative = jnp.split(jnp.asarray(drawn.text_states), 2)
        noise = jnp.asarray(drawn.noise[:batch])
        keys = jnp.stack([rng.root_key(i) for i in range(batch)])
        unet, table = self.pipe.unet, build_table(name, self.pipe.schedule, steps)
        params = jax.device_put(self.pipe.params["unet"], jax.local_devices()[0])

        def network(params: Any, x: jax.Array, t: jax.Array, text: jax.Array) -> Any:
            return unet.apply({"params": params}, x, jnp.full(len(x), t), text)

        @jax.jit
        def run(params: Any, noise: jax.Array) -> jax.Array:
            denoise = guided(
                lambda *inputs: network(params, *inputs), text=text, negative=negative, scale=jnp.float32(GUIDANCE)
            )
            return sample(denoise, noise, table, keys=keys)

        compiled, self.compiling[f"{name} {batch}"] = compile_timed(run, params, noise)
        both = jnp.concatenate([noise, noise])
        self.flops[f"{name} {batch}"] = steps * flops(network, params, both, jnp.int32(0), drawn.text_states)
        return lambda: jax.block_until_ready(compiled(params, noise))

    def load(self) -> Run:
        """From the folder to all local devices, in float32."""
        return lambda: jax.block_until_ready(load_pretrained(self.folder).params)

    def class_images(self, batch: int, steps: int) -> Run:
        """Prompts to pictures, text encoder and decoder included."""
        return lambda: self.pipe([CLASS_PROMPT] * batch, steps=steps, guidance_scale=GUIDANCE)

    def forget(self) -> None:
        """The weights: the next work starts anew, and has the memory."""
        self.__dict__.pop("pipe", None)

    @property
    def peak_bytes(self) -> int | None:
        """Of this process on the first device, where it keeps count."""
        return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def step_name(batch: int, text: bool) -> str:
    """As rows of the table are called."""
    return f"step {batch}+{batch}" + (" with text encoder" if text else "")


def objective(pipe: Pipeline, n_instances: int) -> DenoisingObjective:
    """Of latents that are scaled already."""
    networks = {"unet": pipe.unet, "conditioner": pipe.conditioner, "schedule": pipe.schedule}
    return DenoisingObjective(**networks, scaling_factor=1.0, n_instances=n_instances)


def step_batch(drawn: Examples, n_instances: int, *, text: bool) -> dict[str, np.ndarray]:
    """What a step is given of these examples; those after the instances are of the class."""
    n = len(drawn.latents)
    return {
        "mean": drawn.latents,
        "logvar": np.full_like(drawn.latents, -9),
        "weight": np.ones(n, np.float32),
        "is_prior": np.arange(n) >= n_instances,
        "index": np.arange(n, dtype=np.int32),
    } | (id_leaves({"text_encoder": drawn.input_ids}) if text else Condition(states=drawn.text_states).leaves())


def compile_timed(function: Any, *arguments: Any) -> tuple[Any, dict[str, float]]:
    """(compiled for these arguments, seconds of tracing and of XLA)."""
    begin = time.perf_counter()
    lowered = function.lower(*arguments)
    traced = time.perf_counter()
    compiled = lowered.compile()
    return compiled, {"trace": traced - begin, "compile": time.perf_counter() - traced}


@dataclass
class CompiledStep:
    """An optimizer step under a mapper, and the state that it works on."""

    compiled: Any
    state: Any
    arguments: tuple[Any, ...]
    flops: int
    compiling: dict[str, float]
    """Seconds of tracing, and of XLA."""

    @classmethod
    def of(
        cls,
        pipe: Pipeline,
        mapper: Mapper,
        batch: dict[str, np.ndarray],
        *,
        n_instances: int,
        text: bool,
        adapter: Adapter,
    ) -> "CompiledStep":
        """Compiled, with a copy of the pipeline's weights."""
        groups = ("text_encoder", "unet") if text else ("unet",)
        optimizers = {group: adamw(optax.constant_schedule(RATE), group=group) for group in groups}
        step = TrainStep(objective=objective(pipe, n_instances), adapter=adapter, optimizers=optimizers, active=groups)
        here = jax.local_devices()[0]
        params = {
            group: jax.tree.map(lambda x: jnp.copy(jax.device_put(x, here)), pipe.params[group]) for group in groups
        }
        frozen, trainable = adapter.init(rng.root_key(0), params)
        fresh = init_state(trainable, optimizers, with_ema=False)
        state, key = mapper.place(fresh), rng.root_key(0)
        arguments = mapper.place(frozen), mapper.place_batch(batch), key
        compiled, compiling = compile_timed(mapper.map(step), state, *arguments)
        return cls(compiled, state, arguments, flops(step, shapes(fresh), shapes(frozen), batch, key), compiling)

    @property
    def usage(self) -> Usage:
        """Bytes on each device."""
        return Usage.of(self.compiled)

    def run(self) -> None:
        """A step, to its end."""
        self.state, metrics = self.compiled(self.state, *self.arguments)
        jax.block_until_ready(metrics)
