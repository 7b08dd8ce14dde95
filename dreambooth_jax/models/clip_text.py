# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""CLIP's text encoder: a causal transformer with its norms in front (Radford et al. 2021, § 2.4)."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from dreambooth_jax.models.attention import attention
from dreambooth_jax.models.beside import BESIDE, per_row
from dreambooth_jax.models.clip_configs import CLIPConfig, CLIPTextConfig
from dreambooth_jax.models.layers import LayerNorm, Remat, gelu, quick_gelu, recomputed, wide
from dreambooth_jax.target import CPU, Arch

_ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": gelu}


class CLIPAttention(nn.Module):
    """Multi-head self-attention, causal for texts, with the names of transformers."""

    heads: int
    dtype: DTypeLike = jnp.float32
    arch: Arch = CPU
    causal: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        q, k, v = (
            nn.Dense(x.shape[-1], dtype=self.dtype, name=f"{name}_proj")(x).reshape(*x.shape[:2], self.heads, -1)
            for name in "qkv"
        )
        h = attention(q, k, v, arch=self.arch, causal=self.causal).reshape(x.shape)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="out_proj")(h)


class CLIPMLP(nn.Module):
    """Two dense layers."""

    config: CLIPConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        h = nn.Dense(self.config.intermediate_size, dtype=self.dtype, name="fc1")(x)
        h = _ACTIVATIONS[self.config.hidden_act](h)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="fc2")(h)


class CLIPLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    config: CLIPConfig
    dtype: DTypeLike = jnp.float32
    remat: Remat = "nothing"
    arch: Arch = CPU
    causal: bool = True

    def setup(self) -> None:
        cls = recomputed(CLIPAttention, self.remat == "attention")
        self.layer_norm1 = LayerNorm(self.config.layer_norm_eps, dtype=self.dtype)
        self.self_attn = cls(self.config.num_attention_heads, self.dtype, self.arch, self.causal)
        self.layer_norm2 = LayerNorm(self.config.layer_norm_eps, dtype=self.dtype)
        self.mlp = CLIPMLP(self.config, dtype=self.dtype)

    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class TokenEmbed(nn.Module):
    """A table of vectors, and more behind its end that are kept apart: their gradient is no larger than they are.

    Attributes:
        size: vectors of the table.
        features: of each.
        dtype: of the result.
        added: how many more there are, in the parameter ``added``, or beside the table.
    """

    size: int
    features: int
    dtype: DTypeLike = jnp.float32
    added: int = 0

    def setup(self) -> None:
        draw = nn.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
        self.embedding = self.param("embedding", draw, (self.size, self.features))
        if self.added:
            beside = self.has_variable(BESIDE, "added")
            self.rows = (
                self.get_variable(BESIDE, "added") if beside else self.param("added", draw, (self.added, self.features))
            )

    def __call__(self, ids: Int[Array, "b t"]) -> Float[Array, "b t c"]:
        table = self.embedding.astype(self.dtype)
        if not self.added:
            return jnp.take(table, ids, axis=0)
        known = jnp.take(table, jnp.minimum(ids, self.size - 1), axis=0)
        numbers, rows = jnp.maximum(ids - self.size, 0), self.rows.astype(self.dtype)
        if rows.ndim == 3:  # of members, [S, n, c]
            numbers = numbers + per_row(self.added * jnp.arange(rows.shape[0], dtype=ids.dtype), len(ids))[:, None]
            rows = rows.reshape(-1, self.features)
        new = jnp.take(rows, numbers, axis=0)
        return jnp.where((ids < self.size)[..., None], known, new)


class CLIPEmbeddings(nn.Module):
    """Token plus position."""

    config: CLIPTextConfig
    dtype: DTypeLike = jnp.float32
    added_tokens: int = 0

    def setup(self) -> None:
        size = self.config.hidden_size
        self.token_embedding = TokenEmbed(self.config.vocab_size, size, dtype=self.dtype, added=self.added_tokens)
        self.position_embedding = nn.Embed(self.config.max_position_embeddings, size, dtype=self.dtype)

    def __call__(self, input_ids: Int[Array, "b t"]) -> Float[Array, "b t c"]:
        positions = jnp.arange(input_ids.shape[1])[None, :]
        return self.token_embedding(input_ids) + self.position_embedding(positions)


class CLIPEncoder(nn.Module):
    """The stack of layers, of texts or of pictures."""

    config: CLIPConfig
    dtype: DTypeLike = jnp.float32
    remat: Remat = "nothing"
    arch: Arch = CPU
    causal: bool = True

    def setup(self) -> None:
        layer = recomputed(CLIPLayer, self.remat == "blocks")
        self.layers = [
            layer(self.config, self.dtype, self.remat, self.arch, causal=self.causal)
            for _ in range(self.config.num_hidden_layers)
        ]

    def __call__(self, x: Float[Array, "b t c"], count: int, first: int = 0) -> Float[Array, "b t c"]:
        """After the first ``count`` layers, from what those before ``first`` give."""
        for layer in self.layers[first:count]:
            x = layer(x)
        return x


class CLIPTextTransformer(nn.Module):
    """Embeddings, layers, final norm."""

    config: CLIPTextConfig
    dtype: DTypeLike = jnp.float32
    remat: Remat = "nothing"
    arch: Arch = CPU
    clip_skip: int = 1
    added_tokens: int = 0

    def setup(self) -> None:
        self.embeddings = CLIPEmbeddings(self.config, dtype=self.dtype, added_tokens=self.added_tokens)
        self.encoder = CLIPEncoder(self.config, dtype=self.dtype, remat=self.remat, arch=self.arch)
        self.final_layer_norm = LayerNorm(self.config.layer_norm_eps, dtype=wide(self.dtype))

    def __call__(self, input_ids: Int[Array, "b t"]) -> Float[Array, "b t c"]:
        count = self.config.num_hidden_layers + 1 - self.clip_skip
        return self.final_layer_norm(self.encoder(self.embeddings(input_ids), count))

    def before_last(self, input_ids: Int[Array, "b t"]) -> Float[Array, "b t c"]:
        """Hidden state of the layer before the one that :meth:`__call__` reads, as it is: without the norm."""
        return self.encoder(self.embeddings(input_ids), self.config.num_hidden_layers - self.clip_skip)

    def after(self, states: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        """The last hidden state after the norm, from that of :meth:`before_last`."""
        layers = self.config.num_hidden_layers
        return self.final_layer_norm(self.encoder(states, layers, layers - self.clip_skip))


class TextEncoder(nn.Module):
    """What all text encoders of denoisers have in common.

    Attributes:
        config: the network's shape.
        dtype: what to compute in.
        remat: what the backward pass computes again: nothing, each layer, or each attention.
        arch: what to compute on.
        clip_skip: which of the hidden states that the encoder may give to take: 1 is the one behind most layers. The
            layers behind it are not computed where nothing else is read.
        added_tokens: vectors of words that the vocabulary does not have; their ids follow its own.
    """

    config: CLIPTextConfig
    dtype: DTypeLike = jnp.float32
    remat: Remat = "nothing"
    arch: Arch = CPU
    clip_skip: int = 1
    added_tokens: int = 0

    def setup(self) -> None:
        self.text_model = CLIPTextTransformer(
            self.config,
            dtype=self.dtype,
            remat=self.remat,
            arch=self.arch,
            clip_skip=self.clip_skip,
            added_tokens=self.added_tokens,
        )

    @property
    def unread(self) -> tuple[str, ...]:
        """Patterns of names of parameters that the output does not depend on."""
        return ()

    def _layers_from(self, first: int) -> tuple[str, ...]:
        """Patterns of the parameters of layers from that one on."""
        behind = range(first, self.config.num_hidden_layers)
        return tuple(rf"text_model/encoder/layers_{number}/.*" for number in behind)


class CLIPTextModel(TextEncoder):
    """The text encoder of Stable Diffusion 1 and 2. Its attributes are those of :class:`TextEncoder`; with
    ``clip_skip`` 1 it gives the last layer's hidden state, as in A1111; 2 is what diffusers calls ``clip_skip=1``."""

    def __call__(self, input_ids: Int[Array, "b t"]) -> Float[Array, "b t c"]:
        """Hidden state of that layer after the final norm, in at least float32."""
        return self.text_model(input_ids)

    @property
    def unread(self) -> tuple[str, ...]:
        """Those of layers behind it."""
        return self._layers_from(self.config.num_hidden_layers + 1 - self.clip_skip)
