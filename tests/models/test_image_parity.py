# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""CLIP's image encoder against transformers: outputs and gradients in float64, and its files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax.models.components import CLIP_VISION
from dreambooth_jax.weights.pretrained import load_module
from tests import torch_models
from tests.models.test_parity import check_double, close, gradients_of, nchw, normal

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_image_encoder(act, tmp_path):
    net = torch_models.build_image_encoder(double=True, hidden_act=act)
    pixels = normal(2, 12, 12, 3)
    found = net(nchw(pixels), output_hidden_states=True)
    expected = torch.cat([found.image_embeds, found.hidden_states[-2].reshape(2, -1)], dim=1)
    cotangent = normal(*expected.shape)
    expected.backward(torch.from_numpy(cotangent))
    single = torch_models.build_image_encoder(hidden_act=act)
    single.save_pretrained(tmp_path)
    module, params = load_module(tmp_path, CLIP_VISION, dtype=jnp.float64)
    jax.tree.map(np.testing.assert_array_equal, params, torch_models.params_from_torch(single))

    def both(params, pixels):
        states = module.apply(params, pixels, method="hidden_states")
        return jnp.concatenate([module.apply(params, pixels), states.reshape(2, -1)], axis=1)

    check_double(
        both,
        torch_models.params_from_torch(net),
        (pixels,),
        expected=expected.detach().numpy(),
        cotangent=cotangent,
        gradients=gradients_of(net),
    )
    pixels = pixels.astype(np.float32)
    embeds = single(nchw(pixels)).image_embeds.detach().numpy()
    close(module.clone(dtype=jnp.float32).apply({"params": params}, jnp.asarray(pixels)), embeds, 1e-5)


def test_the_published_sizes():
    """CLIP ViT-H/14, the image encoder of IP-Adapters of SD 1.5: 632,076,800 numbers in its PyTorch file."""
    config = CLIP_VISION.config_cls.from_json(
        {
            **{"architectures": ["CLIPVisionModelWithProjection"], "model_type": "clip_vision_model"},
            **{"hidden_act": "gelu", "hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 16},
            **{"num_hidden_layers": 32, "patch_size": 14, "projection_dim": 1024, "torch_dtype": "float16"},
        }
    )
    module = CLIP_VISION.build(config)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *CLIP_VISION.dummy_inputs(config))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 632_076_800
