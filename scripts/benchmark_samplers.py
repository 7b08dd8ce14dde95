#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What samplers cost: milliseconds of a call of the network beside DDIM's, in one compiled program.

    JAX_PLATFORMS=cpu python scripts/benchmark_samplers.py --steps 20 --repeats 5

Samplers take turns, so that what else the machine does falls on all of them; the smallest time counts.
"""

import argparse
import sys
import time
from functools import partial

import jax
import jax.numpy as jnp

from dreambooth_jax import load_pretrained
from dreambooth_jax.diffusion.loop import sample
from dreambooth_jax.diffusion.samplers import SAMPLERS, build_table


def main() -> int:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="folder, hub id or embedded")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    pipe = load_pretrained(options.model)
    side = pipe.native_size // pipe.vae.config.downscale
    x = jax.random.normal(jax.random.key(0), (options.batch, side, side, pipe.latent_channels))
    keys = jax.random.split(jax.random.key(1), options.batch)
    condition = pipe.condition(pipe.params, ["a picture"] * options.batch)

    @jax.jit
    def run(params, x, table):
        network = lambda x, t: pipe.unet.apply({"params": params}, x, jnp.full(len(x), t), condition)  # noqa: E731
        return sample(network, x, table, keys=keys)

    tables = {name: build_table(name, pipe.schedule, options.steps, spacing="trailing") for name in SAMPLERS}
    runs = {name: partial(run, pipe.params["unet"], x, jax.device_put(table)) for name, table in tables.items()}
    jax.block_until_ready([each() for each in runs.values()])
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(options.repeats):
        for name, each in runs.items():
            begun = time.perf_counter()
            jax.block_until_ready(each())
            best[name] = min(best[name], (time.perf_counter() - begun) / int(tables[name].length))
    print(f"{options.model}, {jax.devices()[0].device_kind}, {options.steps} steps, {run._cache_size()} program\n")
    print("| sampler | calls | ms for a call | beside ddim |\n|---|---|---|---|")
    for name, seconds in best.items():
        print(f"| {name} | {int(tables[name].length)} | {1e3 * seconds:.2f} | {seconds / best['ddim']:.3f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
