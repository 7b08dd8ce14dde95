# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""CLIP's text encoders as denoisers use two of them (Podell et al. 2023, arXiv 2307.01952, § 2.1): of each the hidden
state of the last layer but one, without the final norm, and of one of them a vector for the whole text."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from dreambooth_jax.models.clip_configs import HIGHEST, CLIPTextProjectionConfig
from dreambooth_jax.models.clip_text import TextEncoder
from dreambooth_jax.models.layers import wide


class TextOutput(NamedTuple):
    """What a text encoder says of tokens, and of the whole text."""

    states: Float[Array, "b t c"]
    pooled: Float[Array, "b p"]


class CLIPTextModelBeforeLast(TextEncoder):
    """Hidden state of the last layer but one; with ``clip_skip`` 2 of the one before. The last layer and the final
    norm, which files have, do nothing."""

    def __call__(self, input_ids: Int[Array, "b t"]) -> Float[Array, "b t c"]:
        """That hidden state, in at least float32."""
        states = self.text_model.before_last(input_ids)
        if self.is_initializing():
            self.text_model.after(states)
        return states.astype(wide(self.dtype))

    @property
    def unread(self) -> tuple[str, ...]:
        """Those of layers behind it, and of the final norm."""
        return (*self._layers_from(self.config.num_hidden_layers - self.clip_skip), "text_model/final_layer_norm/.*")


class CLIPTextModelWithProjection(TextEncoder):
    """Hidden state of the last layer but one, and a projection of the last one's at the text's end."""

    config: CLIPTextProjectionConfig

    def setup(self) -> None:
        super().setup()
        self.text_projection = nn.Dense(self.config.projection_dim, use_bias=False, dtype=self.dtype)

    def __call__(self, input_ids: Int[Array, "b t"]) -> TextOutput:
        """Both in at least float32."""
        states = self.text_model.before_last(input_ids)
        last = self.text_model.after(states)
        pooled = jnp.take_along_axis(last, self._ends(input_ids)[:, None, None], axis=1)[:, 0]
        precise = wide(self.dtype)
        return TextOutput(states.astype(precise), self.text_projection(pooled).astype(precise))

    def _ends(self, ids: Int[Array, "b t"]) -> Int[Array, "b"]:
        """Where the texts end: the first time that its token comes. New words, which have higher ids, end none."""
        end = self.config.eos_token_id
        return jnp.argmax(jnp.where(ids < self.config.vocab_size, ids, -1) if end == HIGHEST else ids == end, axis=1)
