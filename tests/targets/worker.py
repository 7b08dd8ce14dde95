# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Compile programs of a small Stable Diffusion for devices that are not there, and tell what they are.

    python -m tests.targets.worker TARGET MODEL_FOLDER '[["name", ["KEY=VALUE", ...]], ...]'     ->  JSON on stdout

In a process of its own, with ``environment(TARGET)``: compilers read it when jax starts. What is told of each program
is numbers; its text stays here.
"""

import json
import re
import sys
from dataclasses import asdict

import jax

from dreambooth_jax.config import load_config
from dreambooth_jax.hardware import describe, programs
from dreambooth_jax.memory import bytes_per_device, usage_of
from dreambooth_jax.pipeline import describe_pretrained
from dreambooth_jax.target import Target
from dreambooth_jax.train_setup import TrainSetup, build_train_setup, mapper_of


def facts(lowered: jax.stages.Lowered, platform: str) -> dict:
    """What a program is. A TPU's compiler is asked for little effort: a quarter of the time, and the same program to
    whoever reads it."""
    texts = []
    options = {"exec_time_optimization_effort": -1.0} if platform == "tpu" else None
    usage = usage_of(lowered, look=lambda compiled: texts.append(compiled.as_text()), options=options)
    (text,) = texts
    return {
        "usage": asdict(usage),
        "kernels": dict(programs.kernels(text)),
        "collectives": [asdict(one) for one in programs.collectives(text)],
        "largest": [asdict(one) for one in programs.largest(text, 12)],
        "traffic": programs.traffic(text),
        "scopes": {scope: text.count(scope) for scope in ("all-reduce", "reduce-scatter", "all-gather")},
    }


def sides(job: str) -> tuple[int, ...] | None:
    """Height and width of a job such as ``step 768x512``."""
    match = re.search(r"(\d+)x(\d+)", job)
    return match and tuple(map(int, match.groups()))


def lower(setup: TrainSetup, active: tuple[str, ...], height: int, width: int) -> jax.stages.Lowered:
    """A step on pictures of any shape; those of runs are square."""
    state, frozen, batch, key = setup.step_shapes(active)
    factor, mapper = setup.pipe.vae.config.downscale, setup.mapper
    for name in ("mean", "logvar"):
        rows, _, _, channels = batch[name].shape
        batch[name] = jax.ShapeDtypeStruct((rows, height // factor, width // factor, channels), batch[name].dtype)
    return setup.steps[active].lower(mapper.shapes(state), mapper.shapes(frozen), mapper.batch_shapes(batch), key)


def main(name: str, model: str, jobs: list) -> dict:
    """Facts of each job's program."""
    chip, devices = describe(name)
    found = {}
    for job, overrides in jobs:
        target = Target.of(devices, memory=chip.memory, described=True)
        config = load_config(None, [f"model.path={model}", "data.class_noun=dog", *overrides])
        pipe = describe_pretrained(
            config.model.path, revision=config.model.revision, target=target, dtype=config.train.dtype
        )
        height, width = sides(job) or config.data.size
        if job.startswith("step"):
            setup = build_train_setup(config, pipe, mapper_of(config, target))
            (active,) = setup.steps
            found[job] = facts(lower(setup, active, height, width), chip.platform)
            found[job]["state"] = bytes_per_device(setup.mapper.shapes(setup.state))
        elif job.startswith("sampler"):
            found[job] = facts(pipe.lower(len(devices), height=height, width=width), chip.platform)
        else:
            found[job] = facts(pipe.lower_encode_images(len(devices), height=height, width=width), chip.platform)
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))))
