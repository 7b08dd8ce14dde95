# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Files of adapters and diffusers: what it draws with ours, we draw; what it writes, we read."""

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from dreambooth_jax.adapters.methods import METHODS
from dreambooth_jax.trees import flatten
from dreambooth_jax.weights.adapters import Module, applied, read_adapter, write_adapter
from dreambooth_jax.weights.adapters.methods import to_ours
from dreambooth_jax.weights.adapters.paths import from_dotted
from dreambooth_jax.weights.checking import check_file
from tests import torch_models
from tests.test_pipeline_parity import NEGATIVE, PROMPTS, ours, run_theirs, theirs
from tests.weights.adapters.test_files import assert_same
from tests.weights.adapters.trees import random_modules

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")
convert_state_dict_to_diffusers = pytest.importorskip("diffusers.utils").convert_state_dict_to_diffusers
_collate_lora_metadata = pytest.importorskip("diffusers.training_utils")._collate_lora_metadata

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


QUICK = ("kohya", "peft, alpha other than rank", "peft, DoRA")


@pytest.mark.parametrize("case", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in CASES])
def test_diffusers_draws_our_picture(pipes, draw, tmp_path, case):
    plain, _ = draw(None)
    expected, images = draw(write(tmp_path / "a.safetensors", pipes[1].params, **CASES[case]))
    np.testing.assert_allclose(images, expected, atol=1e-4)
    assert np.abs(expected - plain).max() > 0.1


def test_with_a_weight(pipes, draw, tmp_path):
    expected, images = draw(write(tmp_path / "a.safetensors", pipes[1].params, dialect="kohya", alpha=3.0), -0.3)
    np.testing.assert_allclose(images, expected, atol=1e-4)


class TestFilesOfDiffusers:
    """Written as its training scripts do, of today and of before."""

    def trained(self, **options):
        """(networks with a LoRA of random numbers, path of each layer -> its change)."""
        models = torch_models.build("sd15")
        targets = {
            "unet": ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "ff.net.0.proj", "ff.net.2", "conv1"],
            "text_encoder": ["q_proj", "v_proj", "out_proj", "fc1", "fc2"],
        }
        generator, changes = torch.Generator().manual_seed(0), {}
        for network, names in targets.items():
            model = getattr(models, network)
            peft.inject_adapter_in_model(peft.LoraConfig(r=4, lora_alpha=3, target_modules=names, **options), model)
            for name, layer in model.named_modules():
                if isinstance(layer, peft.tuners.lora.LoraLayer):
                    with torch.no_grad():
                        up = layer.lora_B["default"].weight
                        up.copy_(torch.randn(up.shape, generator=generator))
                    path = name if network == "unet" or name.startswith("text_model") else f"text_model.{name}"
                    changes[f"{network}/{from_dotted(path)}"] = to_ours(
                        layer.get_delta_weight("default").detach().numpy()
                    )
        return models, changes

    @pytest.mark.parametrize("form", ["peft", "old"])
    @pytest.mark.parametrize(
        "options", [{}, pytest.param({"use_rslora": True}, marks=pytest.mark.slow)], ids=["alpha", "rank-stabilised"]
    )
    def test_are_read(self, tmp_path, form, options):
        models, changes = self.trained(**options)
        networks = {"unet": models.unet, "text_encoder": models.text_encoder}
        states = {name: peft.get_peft_model_state_dict(model) for name, model in networks.items()}
        if form == "old":
            states = {name: convert_state_dict_to_diffusers(state) for name, state in states.items()}
        diffusers.StableDiffusionPipeline.save_lora_weights(
            tmp_path,
            unet_lora_layers=states["unet"],
            text_encoder_lora_layers=states["text_encoder"],
            **_collate_lora_metadata(networks),
        )
        found = read_adapter(tmp_path / "pytorch_lora_weights.safetensors")
        modules = {f"{n}/{path}": module for n, layers in found.networks.items() for path, module in layers.items()}
        assert modules.keys() == changes.keys()
        assert ("peft" in found.dialects, len(found.dialects) > 1) == (True, form == "old")
        for path, change in changes.items():
            tensors = {name: jnp.asarray(tensor) for name, tensor in modules[path].tensors.items()}
            ours = METHODS["lora"].kernel(jnp.zeros(change.shape), tensors)
            np.testing.assert_allclose(ours, change, atol=1e-5, err_msg=path)


def test_check_knows_what_diffusers_refuses_and_drops(pipes, tmp_path):
    torch_pipe, pipe = pipes
    kernels = kernels_of(pipe.params, ("attn1/to_q",))["unet"]
    plain = random_modules(kernels, kernels)
    dora = random_modules(kernels, kernels, method="dora", axis="input")
    lokr = {path: Module("lokr", {"lokr_w1": np.ones((2, 2)), "lokr_w2": np.ones((16, 16))}) for path in kernels}
    cases = {"plain": (plain, "kohya"), "peft": (plain, "peft"), "dora": (dora, "kohya"), "lokr": (lokr, "kohya")}
    for name, (modules, dialect) in cases.items():
        file = tmp_path / f"{name}.safetensors"
        write_adapter(file, {"unet": modules}, dialect=dialect)
        (said,) = [one for one in check_file(file).tools if one.tool == "diffusers"]
        try:
            torch_pipe.load_lora_weights(str(tmp_path), weight_name=file.name, adapter_name=name)
            loaded = sum(name in getattr(layer, "lora_A", {}) for layer in torch_pipe.unet.modules())
            dropped = name == "dora" and not any(
                getattr(m, "use_dora", {}).get(name) for m in torch_pipe.unet.modules()
            )
        except ValueError:
            loaded, dropped = 0, False
        torch_pipe.unload_lora_weights()
        assert said.loads == (f"all {loaded} layers" if loaded else "nothing"), name
        assert bool(said.notes) == (not loaded or dropped), name


def test_a_file_of_pytorch_is_read_and_not_unpickled(pipes, tmp_path):
    file = write(tmp_path / "a.safetensors", pipes[1].params, dialect="kohya", layers=("attn1",))
    torch.save({name: torch.from_numpy(array) for name, array in load_file(file).items()}, tmp_path / "a.pt")
    found, expected = read_adapter(tmp_path / "a.pt"), read_adapter(file)
    assert_same(found.networks, expected.networks)
    assert check_file(tmp_path / "a.pt").kind == "an adapter: LoRA"
