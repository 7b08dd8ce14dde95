# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Files of adapters with tensors of any shape, missing, of both dialects, with broken settings: told or refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dreambooth_jax.errors import InputError
from dreambooth_jax.weights.adapters import applied, read_adapter
from dreambooth_jax.weights.adapters.dialects import kohya_key
from dreambooth_jax.weights.adapters.methods import METHODS
from dreambooth_jax.weights.checking import as_dict, as_text, check_file

SHAPES = [(), (1,), (0,), (3,), (2, 3), (3, 2), (0, 3), (1, 1, 2, 3), (2, 3, 1, 1), (2, 3, 3, 3), (2, 2, 2), (1,) * 6]
KERNELS = {"conv_in": (3, 3, 4, 6), "conv_out": (3, 2)}
MODEL = {"unet": {path: {"kernel": np.ones(shape, np.float32)} for path, shape in KERNELS.items()}}
PEFT = {"lora_down": "lora_A.weight", "lora_up": "lora_B.weight", "dora_scale": "lora_magnitude_vector"}
SETTINGS = ("[]", "{", "{}", '{"unet.lora_alpha": null}', '{"unet.lora_alpha": [1]}', '{"unet.lora_alpha": 1e400}')


def odd_file(path: Path, r: np.random.Generator) -> Path:
    method = METHODS[r.integers(len(METHODS))]
    names = [*method.needed[r.integers(len(method.needed))], *(name for name in method.optional if r.random() < 0.5)]
    arrays = {}
    for layer in KERNELS:
        for name in names:
            array = np.array(
                r.normal(size=SHAPES[r.integers(len(SHAPES))]), r.choice([np.float32, np.float16, np.int64])
            )
            peft = f"unet.{layer}.{PEFT.get(name, name)}"
            arrays[kohya_key("unet", layer, name) if r.random() < 0.5 else peft] = array
    texts = {
        "lora_adapter_metadata": str(r.choice(SETTINGS)),
        "dreambooth_jax.lidb_seed": str(r.choice(["5", "x", ""])),
    }
    save_file(arrays, path, metadata=texts if r.random() < 0.5 else None)
    return path


@pytest.mark.parametrize("seed", range(3))
def test_odd_files_are_told_or_refused_in_one_line(tmp_path, seed):
    r = np.random.default_rng(seed)
    refused = []
    for _ in range(40):
        file = odd_file(tmp_path / "a.safetensors", r)
        try:
            report = check_file(file)
            assert str(file) in as_text(report)
            json.dumps(as_dict(report))
            applied(MODEL, read_adapter(file))
        except InputError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert not any("\n" in line for line in refused)
