# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What to change where a run does not fit."""

from collections.abc import Iterator

import numpy as np

from dreambooth_jax.config import Config
from dreambooth_jax.memory import bytes_per_device
from dreambooth_jax.planning.result import gb
from dreambooth_jax.train_setup import TrainSetup
from dreambooth_jax.training.optimizer_kinds import KINDS
from dreambooth_jax.training.parallel import Sharded


def refusal(config: Config, setup: TrainSetup, needed: str, room: int, *, activations: int) -> str:
    """Why a run does not fit, and the three cheapest ways out.

    Args:
        config: of the run.
        setup: its steps.
        needed: how much, and what for.
        room: bytes of each device.
        activations: bytes that a step needs besides what it is given; 0 if these are not the problem.
    """
    ways = "; ".join(list(advice(config, setup, activations=activations))[:3]) or "a smaller model, or a larger device"
    return f"this run does not fit: a step needs {needed}, there are {gb(room)}. Try {ways}"


def advice(config: Config, setup: TrainSetup, *, activations: int) -> Iterator[str]:
    """``KEY=VALUE`` and what it does, in the order in which they cost least.

    Args:
        config: of the run as it is.
        setup: its steps.
        activations: bytes that a step needs besides what it is given; 0 if these are not the problem.
    """
    mapper, examples = setup.mapper, setup.batches.examples
    n = len(mapper.devices)
    trained = bytes_per_device(mapper.shapes(setup.trainable))
    share = examples // config.train.accumulation // n
    if activations and setup.pipe.unet.dtype == np.float32 and mapper.devices[0].platform != "cpu":
        yield f"train.dtype=bfloat16: half of the {gb(activations)} GB of activations"
    if activations and config.train.remat != "blocks":
        yield "train.remat=blocks: most of the activations are computed again, for a third more time"
    if config.optimizer.kind != "adafactor":
        if config.optimizer.moments == "float32" and "moments" not in KINDS[config.optimizer.kind].unused:
            yield f"optimizer.moments=bfloat16: {gb(trained / 2)} GB less"
        moments = bytes_per_device(mapper.shapes(setup.state.opt_state))
        yield f"optimizer.kind=adafactor (with moments, beta1, beta2 and eps left out): about {gb(moments)} GB less"
    if activations and share > 1:
        yield f"train.accumulation={config.train.accumulation * share}: activations of one example at a time"
    if n > 1 and not isinstance(mapper, Sharded):
        yield f"train.parallel=fsdp: parameters, moments and gradients split over {n} devices"
    if config.train.ema_decay:
        yield f"train.ema_decay=0: {gb(trained)} GB less"
    if "text_encoder" in setup.trainable:
        yield "text_encoder.stop=0: the text encoder rests"
    if activations and config.train.batch_size > 1 and examples // 2 % (n * config.train.accumulation) == 0:
        yield f"train.batch_size={config.train.batch_size // 2}: half of the activations"
