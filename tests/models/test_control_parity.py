# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""ControlNet and what the denoiser does with residuals, against diffusers: outputs and gradients of every leaf."""

import json

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax.errors import InputError
from dreambooth_jax.models import ControlNetConfig, ControlNetModel, UNet2DConditionModel, UNetConfig
from dreambooth_jax.models.components import CONTROLNET, T2I_ADAPTER
from dreambooth_jax.models.condition import Condition, Residuals
from dreambooth_jax.models.controlnet import guess_scales
from dreambooth_jax.weights.pretrained import load_module
from tests import torch_models
from tests.models.test_parity import check_double, check_names, close, fast, gradients_of, nchw, nhwc, normal

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

ODD = 8, 7
"""Height and width of latents."""


def inputs_of():
    return normal(2, *ODD, 4), np.array([999, 1], np.int32), normal(2, 5, 32)


def picture_of(channels=3):
    return np.random.default_rng(3).uniform(size=(2, 16, 14, channels))


def theirs(net, latents, timesteps, text, picture, **how):
    down, middle = net(
        nchw(latents),
        torch.from_numpy(timesteps),
        torch.from_numpy(text),
        controlnet_cond=nchw(picture),
        return_dict=False,
        **how,
    )
    return [*down, middle]


def ours(net, dtype=jnp.float32):
    return ControlNetModel(ControlNetConfig.from_json(torch_models.config_json(net)), dtype=dtype)


def flat(residuals):
    return [*residuals.skips, residuals.middle]


def joined(leaves):
    """All numbers of several features, by example and channel."""
    return jnp.concatenate([leaf.reshape(leaf.shape[0], -1, 16) for leaf in leaves], axis=1)


class TestControlNet:
    @pytest.mark.parametrize("kind", [pytest.param("sd15", marks=pytest.mark.slow), "sd21"])
    def test_in_float32(self, kind):
        net = torch_models.build_controlnet(kind)
        module, params = ours(net), torch_models.params_from_torch(net)
        latents, timesteps, text = inputs_of()
        inputs = [latents.astype("f"), timesteps, text.astype("f"), picture_of().astype("f")]
        check_names(module, params, *inputs)
        found = fast(module.apply)({"params": params}, *inputs)
        for mine, other in zip(flat(found), theirs(net, *inputs), strict=True):
            close(mine, nhwc(other), 1e-5)

    @pytest.mark.parametrize("kind", [pytest.param("sd15", marks=pytest.mark.slow), "sd21"])
    def test_in_float64_with_gradients(self, kind):
        net = torch_models.build_controlnet(kind, double=True)
        module = ours(net, jnp.float64)
        inputs = *inputs_of(), picture_of()
        expected = [leaf.permute(0, 2, 3, 1).reshape(2, -1, 16) for leaf in theirs(net, *inputs)]
        expected = torch.cat(expected, dim=1)
        cotangent = normal(*expected.shape)
        expected.backward(torch.from_numpy(cotangent))
        check_double(
            lambda params, *inputs: joined(flat(module.apply(params, *inputs))),
            torch_models.params_from_torch(net),
            inputs,
            expected=expected.detach().numpy(),
            cotangent=cotangent,
            gradients=gradients_of(net),
        )


@pytest.mark.parametrize(
    "options",
    [
        {"controlnet_conditioning_channel_order": "bgr", "layers_per_block": 2},
        {"global_pool_conditions": True, "conditioning_embedding_out_channels": (8, 12, 16, 24)},
        {"conditioning_channels": 4, "only_cross_attention": (True, False)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options(options):
    net = torch_models.build_controlnet("sd21_base", **options)
    module, params = ours(net), torch_models.params_from_torch(net)
    latents, timesteps, text = (each.astype("f") if each.dtype == float else each for each in inputs_of())
    size = 8 * module.config.downscale, 7 * module.config.downscale
    picture = np.random.default_rng(3).uniform(size=(2, *size, module.config.conditioning_channels)).astype("f")

    @fast
    def run(params, latents, timesteps, text, picture):
        """As samplers do: the picture is looked at once, before the first step."""
        hint = module.apply(params, picture, method="hint")
        return module.apply(params, latents, timesteps, text, hint, method="residuals")

    found = run({"params": params}, latents, timesteps, text, picture)
    guessing = jax.tree.map(lambda leaf, scale: scale * leaf, found, guess_scales(module.config))
    for residuals, how in ((found, {}), (guessing, {"guess_mode": True})):
        for mine, other in zip(flat(residuals), theirs(net, latents, timesteps, text, picture, **how), strict=True):
            close(mine, nhwc(other), 1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"in_channels": 1, "channels": [8, 8, 12], "downscale_factor": 4},
        {"adapter_type": "full_adapter_xl", "channels": [8, 12, 12, 12], "downscale_factor": 4},
    ],
    ids=["colours", "grey, odd sizes", "of XL"],
)
def test_t2i_adapter(options, tmp_path):
    """In float64, with gradients of every leaf; read from its folder."""
    net = torch_models.build_t2i_adapter(double=True, **options)
    picture = np.random.default_rng(4).uniform(size=(2, 12, 20, net.config.in_channels))
    features = [leaf.permute(0, 2, 3, 1) for leaf in net(nchw(picture))]
    expected = torch.cat([leaf.reshape(2, -1, 4) for leaf in features], dim=1)
    cotangent = normal(*expected.shape)
    expected.backward(torch.from_numpy(cotangent))
    single = torch_models.build_t2i_adapter(**options)
    single.save_pretrained(tmp_path)
    module, params = load_module(tmp_path, T2I_ADAPTER, dtype=jnp.float64)
    jax.tree.map(np.testing.assert_array_equal, params, torch_models.params_from_torch(single))
    check_double(
        lambda params, picture: jnp.concatenate(
            [leaf.reshape(2, -1, 4) for leaf in module.apply(params, picture)], axis=1
        ),
        torch_models.params_from_torch(net),
        (picture,),
        expected=expected.detach().numpy(),
        cotangent=cotangent,
        gradients=gradients_of(net),
    )


def test_it_is_read_from_a_folder(tmp_path):
    """With weights of PyTorch or of legacy Flax."""
    net = torch_models.build_controlnet("sd15")
    expected = torch_models.params_from_torch(net)
    net.save_pretrained(tmp_path / "torch")
    (tmp_path / "flax").mkdir()
    raw = {**torch_models.config_json(net), "_class_name": "FlaxControlNetModel", "sample_size": 32}
    (tmp_path / "flax" / "config.json").write_text(json.dumps(raw))
    (tmp_path / "flax" / "diffusion_flax_model.msgpack").write_bytes(flax.serialization.to_bytes(expected))
    for form in ("torch", "flax"):
        module, params = load_module(tmp_path / form, CONTROLNET)
        assert module == ours(net)
        jax.tree.map(np.testing.assert_array_equal, params, expected)
    with pytest.raises(InputError, match="2 missing: controlnet_mid_block"):
        broken = {name: leaf for name, leaf in expected.items() if name != "controlnet_mid_block"}
        (tmp_path / "flax" / "diffusion_flax_model.msgpack").write_bytes(flax.serialization.to_bytes(broken))
        load_module(tmp_path / "flax", CONTROLNET)


class TestResiduals:
    """Of the denoiser, in float64."""

    def unet(self, kind="sd15"):
        unet = torch_models.build_unet(kind, double=True, layers_per_block=2)
        module = UNet2DConditionModel(UNetConfig.from_json(torch_models.config_json(unet)), dtype=jnp.float64)
        return unet, module, {"params": torch_models.params_from_torch(unet)}

    def skips_of(self, module, params, inputs):
        """Shapes of its skip connections and middle, as a ControlNet of the same shape makes them."""
        config = ControlNetConfig(
            **{
                name: getattr(module.config, name)
                for name in ("block_out_channels", "down_block_types", "layers_per_block", "norm_num_groups")
            },
            conditioning_embedding_out_channels=(8,),
            cross_attention_dim=32,
            attention_head_dim=4,
        )
        net = ControlNetModel(config, dtype=jnp.float64)
        shapes = jax.eval_shape(net.init_with_output, jax.random.key(0), *inputs, jnp.ones((2, *ODD, 3)))[0]
        return jax.tree.map(lambda leaf: normal(*leaf.shape), shapes)

    def test_of_a_t2i_adapter_and_a_controlnet_together(self):
        unet, module, params = self.unet()
        inputs = inputs_of()
        blocks = normal(2, 8, 7, 32), normal(2, 4, 4, 64)
        with jax.enable_x64(True):
            more = self.skips_of(module, params, inputs)._replace(blocks=blocks)
            found = fast(module.apply)(params, *inputs[:2], Condition(inputs[2], residuals=more))
        expected = unet(
            nchw(inputs[0]),
            torch.from_numpy(inputs[1]),
            torch.from_numpy(inputs[2]),
            down_block_additional_residuals=[nchw(leaf) for leaf in more.skips],
            mid_block_additional_residual=nchw(more.middle),
            down_intrablock_additional_residuals=[nchw(leaf) for leaf in blocks],
        ).sample
        close(found, nhwc(expected), 1e-9)

    def test_of_none_the_program_is_the_plain_one(self):
        _, module, params = self.unet()
        latents, timesteps, text = inputs_of()

        def lowered(condition):
            return jax.jit(module.apply).lower(params, latents, timesteps, condition).as_text()

        with jax.enable_x64(True):
            plain = lowered(text)
            assert lowered(Condition(text)) == plain
            assert lowered(Condition(text, residuals=Residuals())) == plain
