# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``python -m dreambooth_jax.app.estimate FILE KEY=VALUE ...``: what a run needs, in lines of JSON.

{"held": bytes, "room": bytes or null}        between steps, from shapes alone: seconds
{"peak": bytes, "room": bytes or null, "advice": [...]}        compiled, which the run finds in the cache then: a minute
{"error": "one line"}
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from dreambooth_jax.errors import InputError

NICE = 5
"""Whoever trains comes first."""


def estimate(words: Sequence[str], tell: Callable[[dict[str, Any]], None]) -> None:
    """Tell what a run of these settings needs, or what is wrong with it."""
    from dreambooth_jax.compilation_cache import keep_compiled
    from dreambooth_jax.config import load_config
    from dreambooth_jax.planning import plan
    from dreambooth_jax.planning.admit import capacity, state_bytes
    from dreambooth_jax.prepare.model import describe_model
    from dreambooth_jax.target import Target
    from dreambooth_jax.train_setup import build_train_setup, mapper_of

    keep_compiled()
    try:
        config = load_config(words[0], words[1:])
        mapper = mapper_of(config, Target.here())
        setup = build_train_setup(config, describe_model(config, mapper.target), mapper)
        held = sum(state_bytes(setup, optimizer=config.optimizer.kind).values())
        tell({"held": held, "room": capacity(config, mapper)})
        found = plan(config)
        tell({"peak": found.peak, "room": found.capacity, "advice": list(found.advice)[:1]})
    except InputError as error:
        tell({"error": str(error)})


if __name__ == "__main__":
    os.nice(NICE)
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # a training may have the device
    sink = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    estimate(sys.argv[1:], lambda line: print(json.dumps(line), file=sink, flush=True))
