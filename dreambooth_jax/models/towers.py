# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Kinds of networks that pictures are measured with: what they show, what a text says of them, how far apart they look.

They have folders or files of their own and belong to no family.
"""

from dataclasses import replace

from dreambooth_jax.models.clip import CLIPModel, CLIPModelConfig
from dreambooth_jax.models.components import ComponentKind, KeyRules, Stems, real, whole
from dreambooth_jax.models.dino import DINOv2Config, DINOv2Model, ViTConfig, ViTModel
from dreambooth_jax.models.lpips import LPIPSConfig, LPIPSModel

CLIP = ComponentKind(
    config_cls=CLIPModelConfig,
    module_cls=CLIPModel,
    library_class=("transformers", "CLIPModel"),
    stems=Stems("model", "flax_model"),
    dummy_inputs=lambda c: (real(1, c.vision.image_size, c.vision.image_size, 3), whole(1, 1)),
    key_rules=KeyRules(
        legacy={"layers_": "layers/"},
        ignored=("logit_scale", "text_model/embeddings/position_ids", "vision_model/embeddings/position_ids"),
    ),
    beside=("tokenizer.json", "vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"),
)
DINO = ComponentKind(
    config_cls=ViTConfig,
    module_cls=ViTModel,
    library_class=("transformers", "ViTModel"),
    stems=Stems("model", "flax_model"),
    dummy_inputs=lambda c: (real(1, c.image_size, c.image_size, 3),),
    # of what fills masked patches, and of a classifier
    key_rules=KeyRules(ignored=("embeddings/mask_token", "pooler/dense/weight", "pooler/dense/bias")),
)
DINOV2 = replace(DINO, config_cls=DINOv2Config, module_cls=DINOv2Model, library_class=("transformers", "Dinov2Model"))
LPIPS = ComponentKind(
    config_cls=LPIPSConfig,
    module_cls=LPIPSModel,
    library_class=("lpips", "LPIPS"),
    stems=Stems("model", "flax_model"),
    dummy_inputs=lambda c: (real(1, 64, 64, 3), real(1, 64, 64, 3)),
    # each head is in the file a second time, in a list
    key_rules=KeyRules(
        ignored=(
            *(f"lins_{number}/model_1/weight" for number in range(5)),
            "scaling_layer/shift",
            "scaling_layer/weight",
        )
    ),
)
