#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How fast are a training step and a DDIM run, beside PyTorch diffusers on the same work? Taken in turn, in one run.

    python scripts/benchmark.py --size mini                      # CPU: channels 64-128-256-256, 32 x 32 latents
    python scripts/benchmark.py --size sd15 --batch 1,4,8        # GPU: Stable Diffusion 1.5 at 512²
    python scripts/benchmark.py --peers ours                     # without torch

A training step is the whole UNet's: batch instance and as many class examples, AdamW, clip. A DDIM run is 50 steps of
guided denoising of batch pictures, both halves in one call, without text encoder and decoder. On GPU and TPU we compute
in bfloat16, PyTorch under bfloat16 autocast with channels-last and fused AdamW. Peers: ours, eager, compile.
Compile time (all before and in the first call) stands apart. MFU is against a measured matrix product of that dtype.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # or PyTorch's idle threads spin on the cores that XLA works on

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dreambooth_jax import rng
from dreambooth_jax.adapters import full
from dreambooth_jax.diffusion.guidance import guided
from dreambooth_jax.diffusion.samplers import SAMPLERS
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.models import CLIPTextConfig, CLIPTextModel, UNet2DConditionModel, UNetConfig
from dreambooth_jax.training.objective import DenoisingObjective
from dreambooth_jax.training.optimizer import adamw
from dreambooth_jax.training.parallel import make_mapper
from dreambooth_jax.training.state import init_state
from dreambooth_jax.training.step import make_train_step
from dreambooth_jax.trees import unflatten
from dreambooth_jax.weights.pretrained import parameter_shapes

BLOCKS = {
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "layers_per_block": 2,
    "attention_head_dim": 8,
}
TINY_BLOCKS = {
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 4,
}
SIZES: dict[str, dict[str, Any]] = {
    "tiny": TINY_BLOCKS | {"block_out_channels": [32, 64], "sample_size": 8, "cross_attention_dim": 32},
    "mini": BLOCKS | {"block_out_channels": [64, 128, 256, 256], "sample_size": 32, "cross_attention_dim": 256},
    "sd15": BLOCKS | {"block_out_channels": [320, 640, 1280, 1280], "sample_size": 64, "cross_attention_dim": 768},
}
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
GUIDANCE, RATE = 7.5, 1e-6
Run = Callable[[], Any]


def on_cpu() -> bool:
    """Then everything is float32."""
    return jax.default_backend() == "cpu"


class Ours:
    """dreambooth_jax on the first device."""

    def __init__(self, config: dict[str, Any]):
        self.config = config
        self.dtype = jnp.float32 if on_cpu() else jnp.bfloat16
        self.unet = UNet2DConditionModel(UNetConfig.from_json(config), dtype=self.dtype)
        self.schedule = NoiseSchedule.from_config(SCHEDULE)
        self.flops: dict[str, float] = {}

    def params(self) -> dict[str, Any]:
        """Random weights, anew: a training step donates them."""
        r = np.random.default_rng(0)
        shapes = parameter_shapes(self.unet)
        draw = {
            k: r.standard_normal(s.shape, np.float32) * max(np.prod(s.shape[:-1]), 8) ** -0.5 for k, s in shapes.items()
        }
        return unflatten({name: jnp.asarray(leaf, jnp.float32) for name, leaf in draw.items()})

    def train_step(self, batch: int) -> Run:
        """One optimizer step on 2 · batch examples; the state stays on the device."""
        tiny_text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
        objective = DenoisingObjective(
            unet=self.unet,
            text_encoder=CLIPTextModel(CLIPTextConfig.from_json(tiny_text)),  # its states are cached: it never runs
            schedule=self.schedule,
            scaling_factor=0.18215,
            n_instances=batch,
        )
        adapter, optimizers = full("unet/.*"), {"unet": adamw(optax.constant_schedule(RATE), group="unet")}
        step = make_train_step(objective=objective, adapter=adapter, optimizers=optimizers, active=("unet",))
        mapper = make_mapper("fsdp", jax.local_devices()[:1])
        frozen, trainable = adapter.init(rng.root_key(0), {"unet": self.params()})
        state = mapper.place(init_state(trainable, optimizers, with_ema=False))
        n, size, width = 2 * batch, self.config["sample_size"], self.config["cross_attention_dim"]
        r = np.random.default_rng(0)
        examples = mapper.place_batch(
            {
                "mean": r.standard_normal((n, size, size, 4), np.float32),
                "logvar": np.full((n, size, size, 4), -9, np.float32),
                "text_states": r.standard_normal((n, 77, width), np.float32),
                "weight": np.ones(n, np.float32),
                "is_prior": np.arange(n) >= batch,
                "index": np.arange(n, dtype=np.int32),
            }
        )
        compiled: Any = mapper.map(step)
        compiled = compiled.lower(state, frozen, examples, rng.root_key(0)).compile()
        self.flops["train_step"] = flops(compiled)
        box = [state]

        def run() -> None:
            box[0], metrics = compiled(box[0], frozen, examples, rng.root_key(0))
            jax.block_until_ready(metrics)

        return run

    def ddim(self, batch: int, steps: int) -> Run:
        """A guided run from noise."""
        size, width = self.config["sample_size"], self.config["cross_attention_dim"]
        r = np.random.default_rng(0)
        text, negative = (jnp.asarray(r.standard_normal((batch, 77, width), np.float32)) for _ in range(2))
        noise = jnp.asarray(r.standard_normal((batch, size, size, 4), np.float32))
        keys = jnp.stack([rng.root_key(i) for i in range(batch)])
        table = SAMPLERS["ddim"].table(self.schedule, steps)
        params = self.params()

        @jax.jit
        def sample(params: Any, noise: jax.Array) -> jax.Array:
            def network(x: jax.Array, t: jax.Array, text: jax.Array) -> Any:
                return self.unet.apply({"params": params}, x, jnp.full(len(x), t), text)

            denoise = guided(network, text=text, negative=negative, scale=jnp.float32(GUIDANCE))
            return SAMPLERS["ddim"].run(denoise, noise, table, prediction_type="epsilon", eta=jnp.float32(0), keys=keys)

        return lambda: jax.block_until_ready(sample(params, noise))


class Torch:
    """PyTorch diffusers, eager or compiled."""

    def __init__(self, config: dict[str, Any], *, compiled: bool):
        import diffusers
        import torch

        self.torch, self.diffusers, self.config = torch, diffusers, config
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(0)
        unet = diffusers.UNet2DConditionModel(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})
        unet = unet.to(self.device)
        if self.device == "cuda":
            torch.set_float32_matmul_precision("high")
            unet = unet.to(memory_format=torch.channels_last)
        self.parameters = list(unet.parameters())
        self.unet = torch.compile(unet) if compiled else unet

    def _random(self, *shape: int) -> Any:
        return self.torch.randn(*shape, device=self.device)

    def _autocast(self) -> Any:
        return self.torch.autocast(self.device, self.torch.bfloat16, enabled=self.device == "cuda")

    def _wait(self) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def train_step(self, batch: int) -> Run:
        """The same step."""
        torch = self.torch
        n, size, width = 2 * batch, self.config["sample_size"], self.config["cross_attention_dim"]
        optimizer = torch.optim.AdamW(self.parameters, lr=RATE, fused=self.device == "cuda")
        scheduler = self.diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
        mean, text = self._random(n, 4, size, size), self._random(n, 77, width)

        def run() -> None:
            noise, sampled = self._random(n, 4, size, size), mean + 0.01 * self._random(n, 4, size, size)
            timesteps = torch.randint(0, 1000, (n,), device=self.device)
            with self._autocast():
                prediction = self.unet(scheduler.add_noise(sampled, noise, timesteps), timesteps, text).sample
            errors = (prediction.float() - noise).square().mean((1, 2, 3))
            errors.sum().div(batch).backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            self._wait()

        return run

    def ddim(self, batch: int, steps: int) -> Run:
        """The same run."""
        size, width = self.config["sample_size"], self.config["cross_attention_dim"]
        scheduler = self.diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False)
        text, start = self._random(2 * batch, 77, width), self._random(batch, 4, size, size)

        def run() -> None:
            scheduler.set_timesteps(steps)
            x = start
            with self.torch.inference_mode(), self._autocast():
                for t in scheduler.timesteps:
                    negative, positive = self.unet(self.torch.cat([x, x]), t, text).sample.float().chunk(2)
                    x = scheduler.step(negative + GUIDANCE * (positive - negative), t, x).prev_sample
            self._wait()

        return run


def flops(compiled: Any) -> float:
    """What XLA counts for one call."""
    analysis = compiled.cost_analysis() or {}
    return float((analysis[0] if isinstance(analysis, list) else analysis).get("flops", 0))


def matmul_flops_per_second(dtype: Any) -> float:
    """The best of five large products: what this device can do."""
    n = 2048 if on_cpu() else 8192
    product = jax.jit(jnp.matmul)
    x = jnp.ones((n, n), dtype)
    jax.block_until_ready(product(x, x))
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        jax.block_until_ready(product(x, x))
        times.append(time.perf_counter() - begin)
    return 2 * n**3 / min(times)


def measure(makers: dict[str, Callable[[], Run]], repeats: int) -> dict[str, dict[str, float]]:
    """Making and first call apart, then everybody in turn, so that what disturbs the machine disturbs all."""
    found: dict[str, dict[str, Any]] = {}
    runs: dict[str, Run] = {}
    for name, make in makers.items():
        begin = time.perf_counter()
        runs[name] = make()
        runs[name]()
        found[name] = {"first_call": time.perf_counter() - begin, "times": []}
    for _ in range(repeats):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            found[name]["times"].append(time.perf_counter() - begin)
    return {
        name: {"first_call": f["first_call"], "median": float(np.median(f["times"])), "best": min(f["times"])}
        for name, f in found.items()
    }


def peak_bytes() -> int | None:
    """Of our process on the first device, where it keeps count."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="mini")
    parser.add_argument("--batch", default="1,4", help="instance examples per step, and pictures per DDIM run")
    parser.add_argument("--steps", type=int, default=50, help="of a DDIM run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", default="ours,eager", help="of ours, eager, compile")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    peers: dict[str, Any] = {}
    for name in options.peers.split(","):
        try:
            peers[name] = (
                Ours(SIZES[options.size]) if name == "ours" else Torch(SIZES[options.size], compiled=name == "compile")
            )
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    able = matmul_flops_per_second(peers["ours"].dtype) if "ours" in peers else 0.0
    device = jax.devices()[0].device_kind
    print(f"{options.size} on {device}, jax {jax.__version__}, {platform.machine()}; matmul {able / 1e12:.2f} TFLOP/s")
    print(f"{'work':<22}{'peer':<9}{'first call':>11}{'median s':>10}{'best s':>10}{'ratio':>8}{'MFU':>7}")
    rows = []
    for batch in map(int, options.batch.split(",")):
        for work in ("train_step", "ddim"):
            makers = {
                name: partial(peer.train_step, batch)
                if work == "train_step"
                else partial(peer.ddim, batch, options.steps)
                for name, peer in peers.items()
            }
            for name, times in measure(makers, options.repeats).items():
                row = {"work": work, "batch": batch, "peer": name} | times
                if "ours" in peers and name != "ours":
                    ours = next(r for r in reversed(rows) if r["peer"] == "ours")
                    row["ours_over_peer"] = ours["median"] / times["median"]
                if name == "ours" and work == "train_step":
                    row |= {"flops": peers["ours"].flops[work], "peak_bytes": peak_bytes()}
                    row["mfu"] = row["flops"] / times["median"] / able
                rows.append(row)
                shown = f"{work} {batch}+{batch}" if work == "train_step" else f"ddim {options.steps} x {batch}"
                print(
                    f"{shown:<22}{name:<9}{times['first_call']:11.2f}{times['median']:10.3f}{times['best']:10.3f}"
                    f"{row.get('ours_over_peer', 1):8.2f}{row.get('mfu', float('nan')):7.1%}"
                )
    if options.out:
        about = {"device": device, "jax": jax.__version__, "size": options.size, "matmul_flops_per_second": able}
        options.out.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
