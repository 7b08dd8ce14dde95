# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""All ways to change kernels, by name: of a run's ``adapter.kind``, or of what a file holds."""

from dreambooth_jax.adapters.boft import BOFT
from dreambooth_jax.adapters.difference import DIFFERENCE
from dreambooth_jax.adapters.dora import DORA
from dreambooth_jax.adapters.glora import GLORA
from dreambooth_jax.adapters.ia3 import IA3
from dreambooth_jax.adapters.kernels import KernelMethod
from dreambooth_jax.adapters.lidb import LIDB
from dreambooth_jax.adapters.loha import LOHA, LOHA_WITH_DORA
from dreambooth_jax.adapters.lokr import LOKR, LOKR_WITH_DORA
from dreambooth_jax.adapters.low_rank import LORA
from dreambooth_jax.adapters.oft import OFT
from dreambooth_jax.adapters.rank_relaxed import RANK_RELAXED
from dreambooth_jax.adapters.svdiff import SVDIFF

_OF_RUNS = (LORA, DORA, LOHA, LOKR, IA3, OFT, SVDIFF, LIDB, RANK_RELAXED, DIFFERENCE)
_OF_FILES = (LOHA_WITH_DORA, LOKR_WITH_DORA, BOFT, GLORA)
METHODS: dict[str, KernelMethod] = {method.name: method for method in (*_OF_RUNS, *_OF_FILES)}
