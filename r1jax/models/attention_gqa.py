"""Grouped-query attention (arXiv 2305.13245), as Qwen2 (biases), Qwen3 (norms of queries and keys) and Llama 3 use it.

A token leaves its rotated keys and its values in the cache: 2 K C floats a layer.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from r1jax.config import PolicyConfig
from r1jax.models.attention import DecodeStep, KeyValue, LayerCache, Rows, attend, attend_cached
from r1jax.models.attention_split import attend_split
from r1jax.models.layers import RMSNorm, project, weight
from r1jax.models.rope import rotary, score_scale
from r1jax.models.sharded import is_split
from r1jax.types import Array


class GroupedAttention(nn.Module):
    """H query heads on K key-value heads of C channels each."""

    config: PolicyConfig

    def setup(self):
        c = self.config
        query, shared = (c.heads, c.head_dim), (c.kv_heads, c.head_dim)
        self.q_DHC = weight(self, c, "q_DHC", (c.width, *query))
        self.k_DKC = weight(self, c, "k_DKC", (c.width, *shared))
        self.v_DKC = weight(self, c, "v_DKC", (c.width, *shared))
        self.out_HCD = weight(self, c, "out_HCD", (*query, c.width))
        if c.attention_bias:
            self.q_bias_HC = self._bias("q_bias_HC", query)
            self.k_bias_KC = self._bias("k_bias_KC", shared)
            self.v_bias_KC = self._bias("v_bias_KC", shared)
        if c.qk_norm:
            self.q_norm, self.k_norm = RMSNorm(c), RMSNorm(c)

    def _bias(self, name: str, shape: tuple[int, ...]) -> jax.Array:
        dtype = jnp.dtype(self.config.param_dtype)
        return self.param(name, nn.initializers.zeros, shape, dtype).astype(self.config.dtype)

    def __call__(self, x: jax.Array, where: Rows | DecodeStep, cache: LayerCache | None) -> tuple[jax.Array, KeyValue]:
        """Attention of rows x_RTD (cache None), or of new tokens x_BD against the cache.

        Returns:
          (output shaped as x, what the cache keeps of the tokens: keys and values [R, K, T, C] or [B, K, C])
        """
        if cache is None:
            assert isinstance(where, Rows), "rows are attended to without a cache"
            q, new = self._heads(x, where.position_RT)
            mixed = self._over_rows(q, new, where)
            kept = KeyValue(*(jnp.swapaxes(y, 1, 2) for y in new))
        else:
            assert isinstance(where, DecodeStep), "a cache is read in decode steps"
            q, new = self._heads(x, where.position_B)
            mixed = attend_cached(q, cache.prompt, cache.own, new, where)
            kept = new
        return project(mixed, self.out_HCD, axes=2), kept

    def _over_rows(self, q_RTHC: jax.Array, new: KeyValue, where: Rows) -> jax.Array:
        if is_split():
            return attend_split(self.config, q_RTHC, new, lambda config, new, _: new, (), where)
        return attend(self.config, q_RTHC, new, where)

    def _heads(self, x: jax.Array, position: Array) -> tuple[jax.Array, KeyValue]:
        """(queries [..., H, C], rotated and scaled; keys, rotated, and values [..., K, C])."""
        c = self.config
        q, k, v = (project(x, w) for w in (self.q_DHC, self.k_DKC, self.v_DKC))
        if c.attention_bias:
            biases = (self.q_bias_HC, self.k_bias_KC, self.v_bias_KC)
            q, k, v = (y + jnp.broadcast_to(bias, y.shape) for y, bias in zip((q, k, v), biases, strict=True))
        if c.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = (rotary(heads, position[..., None], c) for heads in (q, k))
        return q * score_scale(c, c.head_dim), KeyValue(checkpoint_name(k, "latents"), checkpoint_name(v, "latents"))
