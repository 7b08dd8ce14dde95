# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Who does the jobs of a sweep: engines by name. A new one is a function in a file of its own, and a line."""

from collections.abc import Mapping

from dreambooth_jax.errors import InputError, nearest
from dreambooth_jax.sweeps.engines.base import Engine as Engine
from dreambooth_jax.sweeps.engines.base import EngineOptions as EngineOptions
from dreambooth_jax.sweeps.engines.local import local
from dreambooth_jax.sweeps.engines.ray_cluster import on_ray
from dreambooth_jax.sweeps.engines.slurm import on_slurm

ENGINES: Mapping[str, Engine] = {"local": local, "ray": on_ray, "slurm": on_slurm}


def check_engine(name: str, options: EngineOptions) -> None:
    """Raise InputError for an engine that there is not, and for what it cannot be told."""
    if name not in ENGINES:
        raise InputError(f"--engine is {name}, but there are {', '.join(ENGINES)}{nearest(name, ENGINES)}")
    for key, least in (("gpus", 0), ("cpus", 1), ("retries", 0)):
        value = getattr(options, key)
        if value is not None and not least <= value < float("inf"):
            raise InputError(f"--{key} is {value}, but must be at least {least}")
    if name == "slurm" and options.gpus is not None and options.gpus != int(options.gpus):
        raise InputError(f"--gpus is {options.gpus}, but SLURM gives whole GPUs: say 1, or use --engine ray")
