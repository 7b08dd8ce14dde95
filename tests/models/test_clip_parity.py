# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""CLIP's two encoders with their projections against transformers: in float64 and float32, from their files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax.models.towers import CLIP
from dreambooth_jax.weights.pretrained import load_module
from tests import torch_models
from tests.models.test_parity import close, nchw, normal

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

HIGHEST = 552  # of the vocabulary, as the end of a text is
IDS = np.array([[551, 3, 9, HIGHEST, HIGHEST], [551, 20, HIGHEST, 0, 0], [551, 4, 5, 6, HIGHEST]], np.int32)


@pytest.mark.parametrize(
    ("end", "dtype", "tolerance"),
    [(HIGHEST, jnp.float64, 1e-9), (2, jnp.float32, 1e-5)],  # files from before 2023 say 2
)
def test_both_encoders(end, dtype, tolerance, tmp_path):
    options = {"text": {"eos_token_id": end, "hidden_act": "quick_gelu"}}
    net = torch_models.build_clip(double=dtype == jnp.float64, **options)
    pixels = normal(2, 12, 12, 3).astype(dtype)
    with torch.no_grad():
        images = net.get_image_features(nchw(pixels)).pooler_output
        texts = net.get_text_features(torch.from_numpy(IDS.astype(np.int64))).pooler_output
    net.save_pretrained(tmp_path)
    with jax.enable_x64(dtype == jnp.float64):
        module, params = load_module(tmp_path, CLIP, dtype=dtype, param_dtype=dtype)
        found = jax.jit(module.apply)({"params": params}, jnp.asarray(pixels), jnp.asarray(IDS))
    for ours, theirs in zip(found, (images, texts)):
        assert ours.dtype == dtype
        close(ours, theirs.numpy(), tolerance)


def parameters(vision):
    text = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "eos_token_id": 2}
    large = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    is_large = vision.get("hidden_size") == 1024
    config = {
        "model_type": "clip",
        "text_config": text | (large if is_large else {}),
        "vision_config": vision,
        "projection_dim": 768 if is_large else 512,
    }
    module = CLIP.build(CLIP.config_cls.from_json(config))
    shapes = jax.eval_shape(module.init, jax.random.key(0), *CLIP.dummy_inputs(module.config))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_the_published_sizes():
    """As Hugging Face counts the files' numbers, one of which is the temperature of the loss."""
    assert parameters({}) == 151_277_313 - 1  # B/32
    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
    assert parameters({"patch_size": 14, **large}) == 427_616_513 - 1
