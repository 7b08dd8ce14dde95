# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Who does the jobs of a sweep: engines by name. A new one is a function in a file of its own, and a line."""

from collections.abc import Mapping

from dreambooth_jax.sweeps.engines.base import Engine as Engine
from dreambooth_jax.sweeps.engines.base import EngineOptions as EngineOptions
from dreambooth_jax.sweeps.engines.local import local
from dreambooth_jax.sweeps.engines.ray_cluster import on_ray
from dreambooth_jax.sweeps.engines.slurm import on_slurm

ENGINES: Mapping[str, Engine] = {"local": local, "ray": on_ray, "slurm": on_slurm}
