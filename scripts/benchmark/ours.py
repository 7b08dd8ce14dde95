# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Our side of every kind of work, on the first device."""

from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmark.inputs import CLASS_PROMPT, GUIDANCE, RATE, examples
from benchmark.measure import Run
from dreambooth_jax import rng
from dreambooth_jax.adapters import full
from dreambooth_jax.diffusion.guidance import guided
from dreambooth_jax.diffusion.samplers import SAMPLERS
from dreambooth_jax.flops import flops
from dreambooth_jax.pipeline import Pipeline, load_pretrained
from dreambooth_jax.training.objective import DenoisingObjective, Draws
from dreambooth_jax.training.optimizer import adamw
from dreambooth_jax.training.parallel import make_mapper
from dreambooth_jax.training.state import init_state
from dreambooth_jax.training.step import make_train_step


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

    @cached_property
    def pipe(self) -> Pipeline:
        """With its weights on every local device."""
        return load_pretrained(self.folder)

    def _params(self, *groups: str) -> dict[str, Any]:
        """Copies on the first device: a training step donates them."""
        device = jax.local_devices()[0]
        return {
            group: jax.tree.map(lambda x: jnp.copy(jax.device_put(x, device)), self.pipe.params[group])
            for group in groups
        }

    def _objective(self, batch: int) -> DenoisingObjective:
        return DenoisingObjective(
            unet=self.pipe.unet,
            text_encoder=self.pipe.text_encoder,
            schedule=self.pipe.schedule,
            scaling_factor=1.0,
            n_instances=batch,
        )

    def _batch(self, batch: int, text: bool) -> dict[str, np.ndarray]:
        drawn = examples(self.configs, batch)
        n = 2 * batch
        return {
            "mean": drawn.latents,
            "logvar": np.full_like(drawn.latents, -9),
            "weight": np.ones(n, np.float32),
            "is_prior": np.arange(n) >= batch,
            "index": np.arange(n, dtype=np.int32),
        } | ({"input_ids": drawn.input_ids} if text else {"text_states": drawn.text_states})

    def loss(self, batch: int, *, text: bool) -> float:
        """Of the examples as they are drawn."""
        drawn = examples(self.configs, batch)
        draws = Draws(jnp.asarray(drawn.latents), jnp.asarray(drawn.noise), jnp.asarray(drawn.timesteps))
        params = {group: self.pipe.params[group] for group in ("unet", "text_encoder")}
        return float(jax.jit(self._objective(batch).loss)(params, self._batch(batch, text), draws)[0])

    def step(self, batch: int, *, text: bool) -> Run:
        """One optimizer step on 2 · batch examples; the state stays on the device."""
        groups = ("text_encoder", "unet") if text else ("unet",)
        adapter = full(*(f"{group}/.*" for group in groups))
        optimizers = {group: adamw(optax.constant_schedule(RATE), group=group) for group in groups}
        step = make_train_step(objective=self._objective(batch), adapter=adapter, optimizers=optimizers, active=groups)
        mapper = make_mapper("fsdp", jax.local_devices()[:1])
        frozen, trainable = adapter.init(rng.root_key(0), self._params(*groups))
        state = mapper.place(init_state(trainable, optimizers, with_ema=False))
        arguments = mapper.place(frozen), mapper.place_batch(self._batch(batch, text)), rng.root_key(0)
        mapped: Any = mapper.map(step)
        compiled = mapped.lower(state, *arguments).compile()
        name = step_name(batch, text)
        self.flops[name] = flops(step, state, *arguments)
        usage = compiled.memory_analysis()
        if usage:
            self.memory[name] = usage.argument_size_in_bytes + usage.temp_size_in_bytes
        box = [state]

        def run() -> None:
            box[0], metrics = compiled(box[0], *arguments)
            jax.block_until_ready(metrics)

        return run

    def ddim(self, batch: int, steps: int) -> Run:
        """A guided run from noise, both halves of guidance in one call of the network."""
        drawn = examples(self.configs, batch)
        text, negative = jnp.split(jnp.asarray(drawn.text_states), 2)
        noise = jnp.asarray(drawn.noise[:batch])
        keys = jnp.stack([rng.root_key(i) for i in range(batch)])
        unet, schedule, ddim = self.pipe.unet, self.pipe.schedule, SAMPLERS["ddim"]
        table, params = ddim.table(schedule, steps), self._params("unet")["unet"]

        def network(params: Any, x: jax.Array, t: jax.Array, text: jax.Array) -> Any:
            return unet.apply({"params": params}, x, jnp.full(len(x), t), text)

        @jax.jit
        def sample(params: Any, noise: jax.Array) -> jax.Array:
            denoise = guided(
                lambda *inputs: network(params, *inputs), text=text, negative=negative, scale=jnp.float32(GUIDANCE)
            )
            options = {"prediction_type": schedule.prediction_type, "eta": jnp.float32(0), "keys": keys}
            return ddim.run(denoise, noise, table, **options)

        both = jnp.concatenate([noise, noise])
        self.flops[f"ddim {batch}"] = steps * flops(network, params, both, jnp.int32(0), drawn.text_states)
        return lambda: jax.block_until_ready(sample(params, noise))

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
