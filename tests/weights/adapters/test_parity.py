# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Files of adapters and diffusers: what it draws with ours, we draw; what it writes, we read."""

import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax.trees import flatten
from dreambooth_jax.weights.adapters import applied, read_adapter, write_adapter
from tests.test_pipeline_parity import NEGATIVE, PROMPTS, ours, run_theirs, theirs
from tests.weights.adapters.trees import random_modules

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")]

TRANSFORMERS = ("attentions_", "self_attn", "mlp")
CONVOLUTIONS = (*TRANSFORMERS, "resnets_", "samplers_")
CASES = {
    "kohya": {"dialect": "kohya"},
    "kohya, alpha other than rank": {"dialect": "kohya", "alpha": 1.0, "rank": 4},
    "kohya, rank-stabilised": {"dialect": "kohya", "alpha": 2 * 5**0.5, "rank": 5},
    "kohya, convolutions of another rank": {
        "dialect": "kohya",
        "layers": CONVOLUTIONS,
        "ranks": lambda path: 2 if "resnets" in path else 3,
    },
    "peft": {"dialect": "peft", "alpha": 3.0},
    "peft, alpha other than rank": {"dialect": "peft", "alpha": 1.5, "rank": 4},
    "peft, convolutions of another rank": {
        "dialect": "peft",
        "layers": CONVOLUTIONS,
        "ranks": lambda path: 2 if "resnets" in path else 4,
    },
    "peft, DoRA": {"dialect": "peft", "method": "dora"},
    "peft, DoRA of convolutions": {"dialect": "peft", "method": "dora", "layers": CONVOLUTIONS},
}


def kernels_of(params, layers):
    """network -> path -> kernel, of the layers that are changed."""
    return {
        network: {
            name.removesuffix("/kernel"): leaf
            for name, leaf in flatten(params[network]).items()
            if name.endswith("/kernel") and any(part in name for part in layers)
        }
        for network in ("unet", "text_encoder")
    }


def write(path, params, *, dialect, layers=TRANSFORMERS, dtype="float32", **options):
    kernels = kernels_of(params, layers)
    networks = {network: random_modules(found, found, **options) for network, found in kernels.items()}
    write_adapter(path, networks, dialect=dialect, dtype=dtype)
    return path


@pytest.fixture(scope="module")
def pipes():
    torch_pipe = theirs("sd15", double=False)
    return torch_pipe, ours("sd15", torch_pipe, jnp.float32)


@pytest.fixture
def draw(pipes):
    """(theirs, ours): pictures with a file of an adapter; None for none."""
    torch_pipe, pipe = pipes
    noise = np.random.default_rng(0).normal(size=(2, *(torch_pipe.unet.config.sample_size,) * 2, 4)).astype("float32")
    ids, negative = pipe.tokenizer(PROMPTS), pipe.tokenizer([NEGATIVE] * 2)

    def draw(file, weight=1.0):
        params = applied(pipe.params, read_adapter(file), weight) if file else pipe.params
        run = {"guidance_scale": 4.0, "latents": noise}
        images = pipe(PROMPTS, params=params, steps=3, negative_prompt=NEGATIVE, output="float32", **run)
        if file:
            torch_pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name="ours")
            torch_pipe.set_adapters("ours", weight)
        _, expected = run_theirs(torch_pipe, ids, negative, num_inference_steps=3, **run)
        return expected, images

    yield draw
    torch_pipe.unload_lora_weights()


@pytest.mark.parametrize("case", CASES)
def test_diffusers_draws_our_picture(pipes, draw, tmp_path, case):
    plain, _ = draw(None)
    expected, images = draw(write(tmp_path / "a.safetensors", pipes[1].params, **CASES[case]))
    np.testing.assert_allclose(images, expected, atol=1e-4)
    assert np.abs(expected - plain).max() > 0.1
