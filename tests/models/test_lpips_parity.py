# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""LPIPS against the same written in PyTorch, in float64, from files as the package lpips keeps them; and its laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dreambooth_jax.models.lpips import SCALE, SHIFT
from dreambooth_jax.models.towers import LPIPS
from dreambooth_jax.weights.pretrained import load_module
from tests.models.test_parity import close, nchw, normal

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")

# torchvision's layers, in a row: features of a convolution, with its size, stride and padding, or "pool"
ALEX = [(64, 11, 4, 2), "relu", "pool", (192, 5, 1, 2), "relu", "pool", (384, 3, 1, 1), "relu"]
ALEX += [(256, 3, 1, 1), "relu", (256, 3, 1, 1), "relu"]
VGG = []
for features, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
    VGG += [*([(features, 3, 1, 1), "relu"] * count), "pool"]
# the layer, of all, that each of the five stages ends behind
ENDS = {"alex": (2, 5, 8, 10, 12), "vgg": (4, 9, 16, 23, 30)}
LAYERS = {"alex": (ALEX, 3), "vgg": (VGG[:-1], 2)}


class Reference(torch.nn.Module):
    """By the paper's formula, with parameters named as the package lpips names them."""

    def __init__(self, net):
        super().__init__()
        layers, window = LAYERS[net]
        channels, self.net = 3, torch.nn.Module()
        slices = [torch.nn.Sequential() for _ in range(5)]
        for number, layer in enumerate(layers):
            stage = next(stage for stage, end in enumerate(ENDS[net]) if number < end)
            if isinstance(layer, tuple):
                features, size, stride, padding = layer
                made = torch.nn.Conv2d(channels, features, size, stride, padding)
                channels = features
            else:
                made = torch.nn.ReLU() if layer == "relu" else torch.nn.MaxPool2d(window, 2)
            slices[stage].add_module(str(number), made)
        for stage, part in enumerate(slices):
            setattr(self.net, f"slice{stage + 1}", part)
        widths = [[m.out_channels for m in part if isinstance(m, torch.nn.Conv2d)][-1] for part in slices]
        self.lins = torch.nn.ModuleList()
        for stage, width in enumerate(widths):
            head = torch.nn.Module()
            head.model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Conv2d(width, 1, 1, bias=False))
            setattr(self, f"lin{stage}", head)
            self.lins.append(head)
        self.scaling_layer = torch.nn.Module()
        self.scaling_layer.register_buffer("shift", torch.tensor(SHIFT)[None, :, None, None])
        self.scaling_layer.register_buffer("scale", torch.tensor(SCALE)[None, :, None, None])

    def forward(self, x, y):
        shift, scale = (torch.tensor(one, dtype=x.dtype)[None, :, None, None] for one in (SHIFT, SCALE))
        x, y, total = (x - shift) / scale, (y - shift) / scale, 0
        for stage, head in enumerate(self.lins):
            part = getattr(self.net, f"slice{stage + 1}")
            x, y = part(x), part(y)
            a, b = (one / (one.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) for one in (x, y))
            total = total + head.model((a - b) ** 2).mean((1, 2, 3))
        return total


@pytest.fixture(params=["alex", pytest.param("vgg", marks=pytest.mark.slow)], scope="module")
def nets(request, tmp_path_factory):
    torch.manual_seed(0)
    net = Reference(request.param).eval()
    with torch.no_grad():
        for head in net.lins:
            head.model[1].weight.abs_()
    file = tmp_path_factory.mktemp("lpips") / "lpips.pth"
    torch.save(net.state_dict(), file)
    module, params = load_module(file, LPIPS)
    assert module.config.net == request.param
    return net, module, params


def pair(net):
    height, width = {"alex": (40, 35), "vgg": (18, 21)}[net]
    return tuple(np.tanh(normal(2, height, width, 3)) for _ in range(2))


def distances(module, params, x, y):
    return jax.jit(module.apply)({"params": params}, jnp.asarray(x), jnp.asarray(y))


def test_distances(nets):
    net, module, params = nets
    x, y = pair(module.config.net)
    with torch.no_grad():
        single = net(*(nchw(one).float() for one in (x, y))).numpy()
        exact = net.double()(*(nchw(one) for one in (x, y))).numpy()
    net.float()
    close(distances(module, params, x.astype(np.float32), y.astype(np.float32)), single, 1e-5)
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        found = distances(module.clone(dtype=jnp.float64), double, x, y)
        assert found.dtype == np.float64
        close(found, exact, 1e-9)


def test_it_is_a_distance(nets):
    _, module, params = nets
    x, y = (one.astype(np.float32) for one in pair(module.config.net))
    # a compiler may fuse the product of one side with the difference, which leaves that product's rounding
    heads = sum(float(jnp.sum(leaf)) for name, leaf in flatten_dict(params, sep="/").items() if name.startswith("lin"))
    assert (np.asarray(distances(module, params, x, x)) <= np.finfo(np.float32).eps ** 2 * heads).all()
    one, other = distances(module, params, x, y), distances(module, params, y, x)
    np.testing.assert_allclose(one, other, rtol=1e-6)
    assert (np.asarray(one) > 0).all()


@pytest.mark.parametrize("net", LAYERS)
def test_the_package(net):
    """As the package itself, where it is installed."""
    lpips = pytest.importorskip("lpips")
    torch.manual_seed(1)
    theirs = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    reference = Reference(net).eval()
    reference.load_state_dict(theirs.state_dict())
    x, y = (nchw(one).float() for one in pair(net))
    np.testing.assert_allclose(reference(x, y).detach(), theirs(x, y).detach().reshape(-1), rtol=1e-5)
