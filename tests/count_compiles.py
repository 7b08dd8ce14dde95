# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A tiny run on one device in a process of its own; says on its last line what it compiled.

python -m tests.count_compiles FOLDER [KEY=VALUE ...]
"""

import json
import sys
from collections import Counter
from pathlib import Path

import jax

import dreambooth_jax as dbx
from dreambooth_jax.compilation_cache import keep_compiled
from tests.runs import tiny_config

if __name__ == "__main__":
    keep_compiled()
    counts: Counter[str] = Counter()

    def asked(event: str, _: float, *, fun_name: str = "", **__: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            counts[fun_name] += 1

    def missed(event: str, **_: object) -> None:
        if event == "/jax/compilation_cache/cache_misses":
            counts["misses"] += 1

    jax.monitoring.register_event_duration_secs_listener(asked)
    jax.monitoring.register_event_listener(missed)
    dbx.train(tiny_config(Path(sys.argv[1]), *sys.argv[2:]))
    print(json.dumps(counts))
