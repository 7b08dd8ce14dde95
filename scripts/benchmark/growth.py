# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""One training step of the UNet, and how its time and memory grow with each of three things, the others held.

Seconds are the median of some steps. Bytes are the compiler's, per device: what the step is given and what it needs
meanwhile; they are known without running it, so sizes that this machine cannot run have them too.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax

from benchmark.inputs import examples
from benchmark.measure import measure
from benchmark.ours import CompiledStep, step_batch
from dreambooth_jax.adapters import full
from dreambooth_jax.memory import Usage, bytes_per_device
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.target import Target
from dreambooth_jax.training.parallel import make_mapper

Row = dict[str, Any]
FACTOR = 8
"""Pixels per latent."""


def point(
    pipe: Pipeline, configs: dict[str, Any], *, n: int, side: int, parallel: str, devices: int, repeats: int
) -> Row:
    """A step on ``n`` examples, half of them of the class, with latents of ``side``."""
    n_instances = max(1, n // 2)
    mapper = make_mapper(parallel, Target.of(jax.local_devices()[:devices]))
    batch = step_batch(examples(configs, n, side), n_instances, text=False)
    step = CompiledStep.of(pipe, mapper, batch, n_instances=n_instances, text=False, adapter=full("unet/.*"))
    times = measure({"ours": lambda: step.run}, repeats)["ours"]
    usage = Usage.of(step.compiled)
    return {
        "examples": n,
        "pixels": FACTOR * side,
        "parallel": parallel,
        "devices": devices,
        "seconds": times["median"],
        "best": times["best"],
        "flops": step.flops,
        "state_bytes": bytes_per_device(step.state),
        "peak_bytes": usage.peak,
    }


def over_batch(pipe: Pipeline, configs: Any, counts: Sequence[int], repeats: int) -> Iterator[Row]:
    """At the model's own size on one device."""
    side = configs["unet"]["sample_size"]
    for n in counts:
        yield point(pipe, configs, n=n, side=side, parallel="fsdp", devices=1, repeats=repeats)


def over_resolution(pipe: Pipeline, configs: Any, pixels: Sequence[int], repeats: int) -> Iterator[Row]:
    """Two examples on one device."""
    for side in (size // FACTOR for size in pixels):
        yield point(pipe, configs, n=2, side=side, parallel="fsdp", devices=1, repeats=repeats)


def over_devices(pipe: Pipeline, configs: Any, counts: Sequence[int], repeats: int) -> Iterator[Row]:
    """Eight examples over all of them, replicated and sharded; counts that this machine has."""
    side = configs["unet"]["sample_size"]
    for parallel in ("pmap", "fsdp"):
        for devices in (count for count in counts if count <= jax.local_device_count()):
            yield point(pipe, configs, n=8, side=side, parallel=parallel, devices=devices, repeats=repeats)
