# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Memory: a model is never there twice, neither when it is read nor when it is written.

``python -m tests.weights.test_memory write|read FOLDER [FORMAT]`` prints by how much a process's peak memory grows, as
a multiple of the weights' bytes.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from dreambooth_jax.models.families import SD
from dreambooth_jax.trees import nbytes, unflatten
from dreambooth_jax.weights.ldm_writing import write_single_file
from dreambooth_jax.weights.modules import build_modules, parameter_shapes
from dreambooth_jax.weights.pretrained import load_components
from dreambooth_jax.weights.writing import write_folder

TOKENIZER = Path(__file__).parent.parent / "fixtures" / "legacy_flax_sd15" / "tokenizer"
SINGLE = "model.safetensors"
CONFIGS = {
    "unet": {"block_out_channels": [128, 256, 384, 384], "cross_attention_dim": 64},
    "vae": {
        "block_out_channels": [32, 32],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
    },
    "text_encoder": {"vocab_size": 553, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1},
}


def _write(folder: str, format: str) -> None:
    """A folder of about 400 MB of weights that take no memory: each leaf is one number, seen from everywhere."""
    shapes = {
        component: parameter_shapes(SD.components[component], module)
        for component, module in build_modules(CONFIGS).items()
    }
    params = {
        component: unflatten({name: np.broadcast_to(np.float32(0.5), leaf.shape) for name, leaf in leaves.items()})
        for component, leaves in shapes.items()
    }
    what = {"params": params, "configs": CONFIGS, "scheduler_config": {}}
    before = _peak()
    if format == "ldm":
        write_single_file(Path(folder, SINGLE), **what)
    else:
        write_folder(folder, tokenizers={"tokenizer": TOKENIZER}, format=format, **what)
    _report(before, nbytes(params))


def _read(folder: str) -> None:
    jax.block_until_ready(jax.device_put(np.zeros(1)))  # the runtime's own memory is not the model's
    before = _peak()
    single = Path(folder, SINGLE)
    components = load_components(single, tokenizer=TOKENIZER) if single.exists() else load_components(folder)
    jax.block_until_ready(components.params)
    _report(before, nbytes(components.params))


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _report(before: int, size: int) -> None:
    print(json.dumps({"bytes": size, "growth": (_peak() - before) / size}))


def _run(*args: str) -> dict:
    command = [sys.executable, "-m", "tests.weights.test_memory", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "format", ["safetensors", *(pytest.param(format, marks=pytest.mark.slow) for format in ("flax", "ldm"))]
)
def test_a_model_is_never_there_twice(tmp_path, format):
    written = _run("write", str(tmp_path), format)
    assert written["bytes"] > 3e8
    assert written["growth"] <= 0.3
    assert _run("read", str(tmp_path))["growth"] <= 1.3


if __name__ == "__main__":
    {"write": _write, "read": _read}[sys.argv[1]](*sys.argv[2:])
