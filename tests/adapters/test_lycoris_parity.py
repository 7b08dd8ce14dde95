# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Changes of kernels and their gradients against LyCORIS in float64, from tensors as its files have them."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax import rng
from dreambooth_jax.adapters import boft, difference, glora, ia3, loha, lokr, oft
from dreambooth_jax.adapters.dora import DORA

torch = pytest.importorskip("torch")
modules = pytest.importorskip("lycoris.modules")
general = pytest.importorskip("lycoris.functional.general")

LAYERS = {"dense": (12, 20, 0), "prime": (7, 5, 0), "1x1": (12, 8, 1), "3x3": (6, 20, 3)}
ALPHA = 3.0


def ours(tensor):
    """Our layout of a tensor of PyTorch's."""
    array = tensor.detach().numpy()
    return array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def layer_of(name, outputs=None):
    i, o, size = LAYERS[name]
    o = outputs or o
    torch.manual_seed(0)
    made = torch.nn.Conv2d(i, o, size, padding=size // 2) if size else torch.nn.Linear(i, o)
    return made.double()


def module_of(kind, layer, **options):
    """A module of LyCORIS with everything random."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = kind("lora", layer, **options).double().train()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def theirs(module, layer):
    """(inputs, outputs of the changed layer, a cotangent, gradient of each parameter)."""
    is_convolution = isinstance(layer, torch.nn.Conv2d)
    x = (
        torch.randn(2, layer.in_channels, 5, 4).double()
        if is_convolution
        else torch.randn(3, layer.in_features).double()
    )
    module.apply_to()
    y = module.forward(x)
    dy = torch.randn_like(y)
    parameters = dict(module.named_parameters())
    gradients = torch.autograd.grad((y * dy).sum(), list(parameters.values()))
    return x, y, dy, dict(zip(parameters, gradients))


def apply(kernel, bias, x):
    if kernel.ndim == 2:
        return x @ kernel + bias[None]
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers) + bias[None, None, None]


def images(tensor):
    array = tensor.detach().numpy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def stored_by(module):
    """What its file has."""
    return module.custom_state_dict() or module.state_dict()


def assert_equal(method, module, layer):
    """A layer's output and the gradients of all tensors: the training forward of LyCORIS is the oracle, since its
    ``get_diff_weight`` multiplies some scales twice."""
    weight, bias = ours(layer.weight), layer.bias.detach().numpy()
    x, y, dy, gradients = theirs(module, layer)
    gradients = {name.removesuffix(".weight"): gradient for name, gradient in gradients.items()}
    stored = {name.removesuffix(".weight"): ours(tensor) for name, tensor in stored_by(module).items()}
    with jax.enable_x64(True):
        tensors = {name: jnp.asarray(value) for name, value in stored.items()}
        kernel, bias, x = jnp.asarray(weight), jnp.asarray(bias), jnp.asarray(images(x))
        trained = {name: tensors.pop(name) for name in gradients}

        @jax.jit
        def forward(trained):
            return apply(method.kernel(kernel, {**tensors, **trained}), bias, x)

        found, pull = jax.vjp(forward, trained)
        np.testing.assert_allclose(found, images(y), rtol=1e-11, atol=1e-11)
        assert np.abs(found - apply(kernel, bias, x)).max() > 1e-2
        (pulled,) = pull(jnp.asarray(images(dy)))
        for name, gradient in gradients.items():
            np.testing.assert_allclose(pulled[name], ours(gradient), rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("tucker", [False, True])
def test_loha(layer, tucker):
    layer = layer_of(layer)
    module = module_of(modules.LohaModule, layer, lora_dim=2, alpha=ALPHA, use_tucker=tucker)
    assert_equal(loha.LOHA, module, layer)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    "options",
    [
        {"lora_dim": 1},
        {"lora_dim": 1, "use_tucker": True},
        {"lora_dim": 1, "decompose_both": True, "factor": 4},
        {"lora_dim": 1, "factor": 2},
        {"lora_dim": 100},
        {"lora_dim": 100, "factor": 4, "decompose_both": True},
    ],
)
def test_lokr(layer, options):
    layer = layer_of(layer)
    assert_equal(lokr.LOKR, module_of(modules.LokrModule, layer, alpha=ALPHA, **options), layer)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("of_outputs", [False, True])
@pytest.mark.parametrize(
    ("kind", "method"), [(modules.LohaModule, loha.LOHA_WITH_DORA), (modules.LokrModule, lokr.LOKR_WITH_DORA)]
)
def test_with_dora(layer, of_outputs, kind, method):
    layer = layer_of(layer)
    weight = ours(layer.weight)
    module = module_of(kind, layer, lora_dim=2, alpha=2.0, weight_decompose=True, wd_on_out=of_outputs)
    merged, _ = module.get_merged_weight(shape=layer.weight.shape)
    stored = {name: ours(tensor) for name, tensor in module.custom_state_dict().items()}
    with jax.enable_x64(True):
        tensors = {name: jnp.asarray(value) for name, value in stored.items()}
        np.testing.assert_allclose(method.kernel(jnp.asarray(weight), tensors), ours(merged), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("of_outputs", [False, True])
def test_dora(layer, of_outputs, monkeypatch):
    """Along either axis. The paper takes norms for constants (§ 4.3), through which LyCORIS differentiates."""
    norm = torch.Tensor.norm
    monkeypatch.setattr(torch.Tensor, "norm", lambda *given, **named: norm(*given, **named).detach())
    layer = layer_of(layer)
    options = {"weight_decompose": True, "wd_on_out": of_outputs}
    assert_equal(DORA, module_of(modules.LoConModule, layer, lora_dim=2, alpha=ALPHA, **options), layer)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("on_input", [False, True])
def test_ia3(layer, on_input):
    layer = layer_of(layer)
    assert_equal(ia3.IA3, module_of(modules.IA3Module, layer, train_on_input=on_input), layer)


@pytest.mark.parametrize("layer", [name for name in LAYERS if name != "prime"])
@pytest.mark.parametrize("options", [{}, {"rescaled": True}, {"constraint": 2**-7}])
def test_oft(layer, options, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor)  # else the inverse is taken in float32
    monkeypatch.setattr(torch, "eye", lambda n, device=None, eye=torch.eye: eye(n, dtype=torch.float64))
    layer = layer_of(layer)
    assert_equal(oft.OFT, module_of(modules.DiagOFTModule, layer, lora_dim=4, **options), layer)


@pytest.mark.parametrize(
    ("layer", "outputs", "size", "stages", "options"),
    [
        ("dense", 16, 4, 3, {}),
        ("dense", 24, 6, 3, {"constraint": 2**-7}),
        ("1x1", 8, 8, 1, {}),
        ("3x3", 24, 6, 3, {"rescaled": True}),
    ],
)
def test_boft(layer, outputs, size, stages, options, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor)  # else the inverse is taken in float32
    monkeypatch.setattr(torch, "eye", lambda n, device=None, eye=torch.eye: eye(n, dtype=torch.float64))
    layer = layer_of(layer, outputs)
    module = module_of(modules.ButterflyOFTModule, layer, lora_dim=size, **options)
    assert module.oft_blocks.shape == (stages, outputs // size, size, size)
    assert_equal(boft.BOFT, module, layer)


def assert_glora(layer, tensors, change):
    """Of tensors as they are in a file."""
    with jax.enable_x64(True):
        tensors = {name.removesuffix(".weight"): jnp.asarray(ours(tensor)) for name, tensor in tensors.items()}
        found = glora.GLORA.kernel(jnp.asarray(ours(layer.weight)), tensors)
        np.testing.assert_allclose(found, ours(layer.weight + change), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("layer", LAYERS)
def test_glora(layer):
    layer = layer_of(layer)
    module = module_of(modules.GLoRAModule, layer, lora_dim=2, alpha=ALPHA)
    assert_glora(layer, module.custom_state_dict(), module.get_diff_weight(shape=layer.weight.shape)[0])


def test_glora_with_a_core():
    """Which LyCORIS applies, though its own module never makes one."""
    weight = pytest.importorskip("lycoris.modules.glora")._glora_weight
    layer, shapes = layer_of("3x3"), {"a1": (6, 2), "a2": (2, 6), "b1": (20, 2), "b2": (2, 6)}
    tensors = {name: torch.randn(*shape, 1, 1).double() for name, shape in shapes.items()}
    tensors["bm"] = torch.randn(2, 2, 3, 3).double()
    change = weight(layer.weight, *tensors.values(), ALPHA / 2)
    assert_glora(layer, tensors | {"alpha": torch.tensor(ALPHA)}, change)


@pytest.mark.parametrize("layer", LAYERS)
def test_full(layer):
    layer = layer_of(layer)
    weight = ours(layer.weight)
    module = module_of(modules.FullModule, layer)
    module.apply_to()
    trained = dict(module.named_parameters())["weight"]
    torch.nn.init.normal_(trained)
    with jax.enable_x64(True):
        stored = jnp.asarray(ours(module.custom_state_dict()["diff"]))
        changed = difference.DIFFERENCE.kernel(jnp.asarray(weight), {"diff": stored})
        np.testing.assert_allclose(changed, ours(trained), rtol=1e-12)


@pytest.mark.parametrize("factor", [-1, 0, 2, 3, 4, 8, 12, 16, 100, 1000])
def test_channels_are_factored_the_same(factor):
    for number in [*range(1, 400), 640, 768, 960, 1024, 1280, 1920, 2560, 3072, 5120, 10240]:
        assert lokr.factorization(number, factor) == general.factorization(number, factor), number


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("kind", "method"), [("Loha", loha), ("Lokr", lokr), ("DiagOFT", oft)])
def test_what_training_starts_with_has_their_names_and_shapes(layer, kind, method):
    """So that their tools load our files: which factors are there, and how large, are theirs."""
    if kind == "DiagOFT" and layer == "prime":
        return  # blocks of one number: they keep parameters that change nothing
    layer = layer_of(layer)
    module = module_of(getattr(modules, f"{kind}Module"), layer, lora_dim=2, alpha=2.0)
    kernel, key = jnp.asarray(ours(layer.weight)), rng.root_key(0)
    fixed, trained = oft.start(kernel, block_size=2) if method is oft else method.start(key, kernel, rank=2, alpha=2.0)
    assert {name: ours(tensor).shape for name, tensor in stored_by(module).items()} == {
        name: tensor.shape for name, tensor in {**fixed, **trained}.items()
    }
