"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1), with two ways to compute it.

A token leaves one latent in the cache: the normalised low-rank key-value vector beside the rotated shared key,
`kv_lora_rank + rope_head_dim` floats a layer, whatever the number of heads. Over whole rows (training, prefill)
keys and values are expanded from the latents; in decode the up-projections are absorbed into the query and the
output, so that attention runs on the latents themselves. Both give the same numbers, up to rounding.
"""

from __future__ import annotations

from typing import NamedTuple

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

LATENT_EPS = (
    1e-6  # of the two norms of latents, whatever `norm_eps` (Moonlight's is another), as in DeepSeek's own code
)


class Up(NamedTuple):
    """The up-projections from the latents."""

    k_WHC: jax.Array
    v_WHC: jax.Array


def expand(config: PolicyConfig, latent_RTW: jax.Array, up: Up) -> KeyValue:
    """Keys, the shared rotated part behind each head's own, and values, of the latents."""
    low_RTW, k_rope_RTC = jnp.split(latent_RTW, [config.kv_lora_rank], axis=-1)
    k_nope = project(low_RTW, up.k_WHC)
    k_rope = jnp.broadcast_to(k_rope_RTC[:, :, None, :], (*k_nope.shape[:3], k_rope_RTC.shape[-1]))
    return KeyValue(jnp.concatenate([k_nope, k_rope], axis=-1), project(low_RTW, up.v_WHC))


class LatentAttention(nn.Module):
    """Multi-head latent attention. Source: arXiv 2412.19437, eqs. 1-11."""

    config: PolicyConfig

    def setup(self):
        c = self.config
        head = c.nope_head_dim + c.rope_head_dim
        if c.q_lora_rank:
            self.q_down_DQ = weight(self, c, "q_down_DQ", (c.width, c.q_lora_rank))
            self.q_norm = RMSNorm(c, LATENT_EPS)
            self.q_up_QHC = weight(self, c, "q_up_QHC", (c.q_lora_rank, c.heads, head))
        else:
            self.q_DHC = weight(self, c, "q_DHC", (c.width, c.heads, head))
        self.kv_down_DW = weight(self, c, "kv_down_DW", (c.width, c.kv_lora_rank + c.rope_head_dim))
        self.kv_norm = RMSNorm(c, LATENT_EPS)
        self.k_up_WHC = weight(self, c, "k_up_WHC", (c.kv_lora_rank, c.heads, c.nope_head_dim))
        self.v_up_WHC = weight(self, c, "v_up_WHC", (c.kv_lora_rank, c.heads, c.v_head_dim))
        self.out_HCD = weight(self, c, "out_HCD", (c.heads, c.v_head_dim, c.width))

    def __call__(self, x: jax.Array, where: Rows | DecodeStep, cache: LayerCache | None) -> tuple[jax.Array, jax.Array]:
        """Attention of rows x_RTD (cache None), or of new tokens x_BD against the cache.

        Returns:
          (output shaped as x, the new latents: latent_RTW or latent_BW)
        """
        if cache is None:
            assert isinstance(where, Rows), "rows are attended to without a cache"
            return self._expanded(x, where)
        assert isinstance(where, DecodeStep), "a cache is read in decode steps"
        return self._absorbed(x, where, cache)

    def _queries(self, x: jax.Array, position: Array) -> tuple[jax.Array, jax.Array]:
        """(without position [..., H, C], rotated [..., H, C])."""
        c = self.config
        if c.q_lora_rank:
            q = project(self.q_norm(project(x, self.q_down_DQ)), self.q_up_QHC)
        else:
            q = project(x, self.q_DHC)
        nope, rope = jnp.split(q, [c.nope_head_dim], axis=-1)
        return nope, rotary(rope, position[..., None], c)

    def _latent(self, x: jax.Array, position: Array) -> jax.Array:
        """The cached vector [..., W] of each token."""
        c = self.config
        low, rope = jnp.split(project(x, self.kv_down_DW), [c.kv_lora_rank], axis=-1)
        return jnp.concatenate([self.kv_norm(low), rotary(rope, position, c)], axis=-1)

    @property
    def _scale(self) -> float:
        return score_scale(self.config, self.config.nope_head_dim + self.config.rope_head_dim)

    def _expanded(self, x_RTD: jax.Array, where: Rows) -> tuple[jax.Array, jax.Array]:
        q_nope, q_rope = self._queries(x_RTD, where.position_RT)
        latent_RTW = checkpoint_name(self._latent(x_RTD, where.position_RT), "latents")
        q_RTHC = jnp.concatenate([q_nope, q_rope], axis=-1) * self._scale
        up = Up(self.k_up_WHC, self.v_up_WHC)
        if is_split():
            mixed_RTHC = attend_split(self.config, q_RTHC, latent_RTW, expand, up, where)
        else:
            mixed_RTHC = attend(self.config, q_RTHC, expand(self.config, latent_RTW, up), where)
        return project(mixed_RTHC, self.out_HCD, axes=2), latent_RTW

    def _absorbed(self, x_BD: jax.Array, where: DecodeStep, cache: LayerCache) -> tuple[jax.Array, jax.Array]:
        """Latents are the keys of one head that all query heads share, and their low part its values."""
        q_nope, q_rope = self._queries(x_BD, where.position_B)
        q_latent = jnp.einsum("bhc,whc->bhw", q_nope, self.k_up_WHC)
        q_BHW = jnp.concatenate([q_latent, q_rope], axis=-1) * self._scale
        latent_BW = self._latent(x_BD, where.position_B)
        # A latent is key and value in one: a slice of its low part would be a copy of the cache.
        prompt, own, new = (KeyValue(x, x) for x in (cache.prompt[:, None], cache.own[:, None], latent_BW[:, None]))
        mixed_BHW = attend_cached(q_BHW, prompt, own, new, where)[..., : self.config.kv_lora_rank]
        value_BHC = jnp.einsum("bhw,whc->bhc", mixed_BHW, self.v_up_WHC)
        return project(value_BHC, self.out_HCD, axes=2), latent_BW
