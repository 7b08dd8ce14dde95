# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a row's process does: ``python -m measure_gpu.tasks PEER TASK SIZE MODEL ARGUMENTS RESULT``.

The work itself is ``benchmark``'s, and the command line's own ``train``.
"""

import dataclasses
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from real_size.model import SIZES, write_model

Result = dict[str, Any]


def make_peer(peer: str, model: Path, size: str) -> Any:
    """Ours or PyTorch's; each is imported only where it is asked for."""
    if peer == "ours":
        from benchmark.ours import Ours

        return Ours(model, SIZES[size])
    from benchmark.pytorch import Torch

    return Torch(model, SIZES[size], compiled=peer == "compile")


def model(peer: str, model: Path, size: str) -> Result:
    """Write it, whole or not at all."""
    unfinished = model.with_name(f"{model.name}.unfinished")
    parameters = write_model(unfinished, size)
    unfinished.rename(model)
    return {"parameters": parameters}


def device(peer: str, model: Path, size: str) -> Result:
    """What all of this is measured on."""
    import jax
    from benchmark.command import about
    from benchmark.measure import matmul_flops_per_second, on_cpu

    stats = jax.local_devices()[0].memory_stats() or {}
    return about(size, matmul_flops_per_second("float32" if on_cpu() else "bfloat16")) | {
        "device_bytes": stats.get("bytes_limit"),
        "driver": driver(),
    }


def driver() -> str | None:
    """NVIDIA's, where there is one."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version,power.limit", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def recompute(it: Any, peer: str, remat: str) -> None:
    """Have the backward pass compute activations again, each side in its own way."""
    if remat == "nothing":
        return
    if peer == "ours":
        it.pipe = dataclasses.replace(it.pipe, unet=it.pipe.unet.clone(remat=remat))
    else:
        getattr(it.unet, "_orig_mod", it.unet).enable_gradient_checkpointing()


def step(peer: str, model: Path, size: str, *, batch: int, repeats: int, remat: str, check: bool) -> Result:
    """Optimizer steps on batch + batch examples; memory as the compiler predicts and as the device reports it."""
    from benchmark.measure import measure

    it = make_peer(peer, model, size)
    found: Result = {"loss": it.loss(batch, text=False)} if check else {}
    recompute(it, peer, remat)

    def make() -> Callable[[], None]:
        run = it.step(batch, text=False)
        if peer == "ours":
            it.forget()  # the step has its own copy of the weights; PyTorch's is the network itself
            gc.collect()
            found["loaded_bytes"] = it.peak_bytes
        return run

    found |= measure({peer: make}, repeats)[peer] | {"reported_bytes": it.peak_bytes}
    if peer == "ours":
        (name,) = it.flops
        found |= {"flops": it.flops[name], "predicted_bytes": it.memory[name]} | it.compiling[name]
    return found


def members(peer: str, model: Path, size: str, *, count: int, steps: int, repeats: int, remat: str) -> Result:
    """Steps of so many subjects at once, and how many subjects an hour has if each takes ``steps``."""
    from benchmark.measure import measure
    from benchmark.members import member_makers, members_name

    it = make_peer(peer, model, size)
    recompute(it, peer, remat)
    make = member_makers(it, count=count, batch=1, rank=16)["ours"]
    found: Result = measure({peer: make}, repeats)[peer] | {"reported_bytes": it.peak_bytes}
    compiling = it.compiling[members_name(count, 1)]
    taken = steps * found["median"]
    return (
        found
        | compiling
        | {
            "subjects_per_hour": 3600 * count / taken,
            "subjects_per_hour_with_compiling": 3600 * count / (taken + compiling["trace"] + compiling["compile"]),
        }
    )


def ddim(peer: str, model: Path, size: str, *, batch: int, steps: int, repeats: int) -> Result:
    """Guided pictures from noise to latents."""
    from benchmark.measure import measure

    it = make_peer(peer, model, size)
    found = measure({peer: partial(it.sampler, "ddim", batch, steps)}, repeats)[peer] | {
        "reported_bytes": it.peak_bytes
    }
    return found | ({"flops": it.flops[f"ddim {batch}"]} | it.compiling[f"ddim {batch}"] if peer == "ours" else {})


def train(peer: str, model: Path, size: str, **arguments: Any) -> Result:
    """The command itself."""
    from measure_gpu.training import train

    return train(model, SIZES[size]["vae"]["sample_size"], **arguments)


TASKS: dict[str, Callable[..., Result]] = {task.__name__: task for task in (model, device, step, members, ddim, train)}


def main(peer: str, task: str, size: str, folder: str, arguments: str, result: str) -> None:
    """Do it, and write what was found."""
    found = TASKS[task](peer, Path(folder), size, **json.loads(arguments))
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
