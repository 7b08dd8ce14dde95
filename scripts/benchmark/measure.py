# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Stop-watches: everybody in turn, so that what disturbs the machine disturbs all; the first call apart.

The ratio is the median over the turns of ours / theirs: both sides of each quotient were measured side by side.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Run = Callable[[], Any]
OURS = "ours"


def measure(makers: dict[str, Callable[[], Run]], repeats: int) -> dict[str, dict[str, float]]:
    """For each peer: seconds of making and first call, of the others (wall and processor), and ours over theirs."""
    first: dict[str, float] = {}
    runs: dict[str, Run] = {}
    for name, make in makers.items():
        begin = time.perf_counter()
        runs[name] = make()
        runs[name]()
        first[name] = time.perf_counter() - begin
    wall: dict[str, list[float]] = {name: [] for name in runs}
    processor: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            begin, begin_processor = time.perf_counter(), time.process_time()
            run()
            wall[name].append(time.perf_counter() - begin)
            processor[name].append(time.process_time() - begin_processor)
    return {
        name: {
            "first_call": first[name],
            "median": float(np.median(wall[name])),
            "best": min(wall[name]),
            "processor": float(np.median(processor[name])),
        }
        | ({"ours_over_peer": float(np.median(np.divide(wall[OURS], wall[name])))} if OURS in wall else {})
        for name in runs
    }


def matmul_flops_per_second(dtype: Any) -> float:
    """The best of some large products: what this device can do."""
    n = 2048 if on_cpu() else 8192
    product = jax.jit(jnp.matmul)
    x = jnp.ones((n, n), dtype)
    jax.block_until_ready(product(x, x))
    times = []
    for _ in range(10):
        begin = time.perf_counter()
        jax.block_until_ready(product(x, x))
        times.append(time.perf_counter() - begin)
    return 2 * n**3 / min(times)


def on_cpu() -> bool:
    """Then everything is float32."""
    return jax.default_backend() == "cpu"
