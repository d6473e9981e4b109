"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1), with two ways to compute it.

A token leaves one latent in the cache: the normalised low-rank key-value vector beside the rotated shared key,
`kv_lora_rank + rope_head_dim` floats a layer, whatever the number of heads. Over whole rows (training, prefill)
keys and values are expanded from the latents; in decode the up-projections are absorbed into the query and the
output, so that attention runs on the latents themselves. Both give the same numbers, up to rounding.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from r1jax.config import PolicyConfig
from r1jax.models.layers import RMSNorm, project, rotary, weight

MASKED = -1e30  # finite, so that a row with nothing to attend to gives no NaN


class Rows(NamedTuple):
    """What attention over packed rows needs: who sees whom, and where each token stands."""

    position_RT: jax.Array
    mask_RTT: jax.Array  # bool [query, key]


class DecodeStep(NamedTuple):
    """What attention in decode needs beside the caches: one new token for each of B = P * G sequences."""

    position_B: jax.Array
    prompt_length_P: jax.Array
    generated: jax.Array  # int32 scalar: slots of the sequences' own cache that are filled


class LayerCache(NamedTuple):
    """Latents of one layer (with a leading N: of all layers)."""

    prompt_PSW: jax.Array  # written by prefill, shared by the G samples of a prompt
    own_BSW: jax.Array  # one slot a sampled token


def visible(segment_RT: jax.Array, branch_RT: jax.Array) -> jax.Array:
    """mask_RTT: a token sees itself and earlier ones of its segment, of its own branch or of the shared branch 0."""
    same = segment_RT[:, :, None] == segment_RT[:, None, :]
    branch = (branch_RT[:, :, None] == branch_RT[:, None, :]) | (branch_RT[:, None, :] == 0)
    length = segment_RT.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))
    return same & branch & causal[None]


@jax.custom_vjp
def attend(q_RTHC: jax.Array, k_RTHC: jax.Array, v_RTHC: jax.Array, mask_RTT: jax.Array) -> jax.Array:
    """softmax(q k^T, where the mask allows) v, the softmax in float32; q comes scaled. Returns [R, T, H, C].

    The derivative is written out so that no [T, T] array is ever transposed, only the narrow ones beside it: on CPU
    forward and backward take two thirds of the time that autodiff's form takes.
    """
    return _attend_fwd(q_RTHC, k_RTHC, v_RTHC, mask_RTT)[0]


def _attend_fwd(q_RTHC, k_RTHC, v_RTHC, mask_RTT):
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q_RTHC, k_RTHC, v_RTHC))
    score = jnp.matmul(q, jnp.swapaxes(k, 2, 3), preferred_element_type=jnp.float32)
    share = jax.nn.softmax(jnp.where(mask_RTT[:, None], score, MASKED), axis=-1).astype(v.dtype)
    mixed = jnp.matmul(share, v)
    return jnp.swapaxes(mixed, 1, 2), (q, k, v, share, mixed)


def _attend_bwd(saved, d_RTHC):
    q, k, v, share, mixed = saved
    d = jnp.swapaxes(d_RTHC, 1, 2)
    flip = functools.partial(jnp.swapaxes, axis1=2, axis2=3)
    d_v = flip(jnp.matmul(flip(d), share))
    d_share = jnp.matmul(d, flip(v), preferred_element_type=jnp.float32)
    lost = jnp.sum(d.astype(jnp.float32) * mixed.astype(jnp.float32), axis=-1, keepdims=True)
    d_score = (share * (d_share - lost)).astype(q.dtype)
    d_q, d_k = jnp.matmul(d_score, k), flip(jnp.matmul(flip(q), d_score))
    return *(jnp.swapaxes(x, 1, 2) for x in (d_q, d_k, d_v)), None


attend.defvjp(_attend_fwd, _attend_bwd)


class LatentAttention(nn.Module):
    """Multi-head latent attention. Source: arXiv 2412.19437, eqs. 1-11."""

    config: PolicyConfig

    def setup(self):
        c = self.config
        head = c.nope_head_dim + c.rope_head_dim
        if c.q_lora_rank:
            self.q_down_DQ = weight(self, c, "q_down_DQ", (c.width, c.q_lora_rank))
            self.q_norm = RMSNorm(c)
            self.q_up_QHC = weight(self, c, "q_up_QHC", (c.q_lora_rank, c.heads, head))
        else:
            self.q_DHC = weight(self, c, "q_DHC", (c.width, c.heads, head))
        self.kv_down_DW = weight(self, c, "kv_down_DW", (c.width, c.kv_lora_rank + c.rope_head_dim))
        self.kv_norm = RMSNorm(c)
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

    def _queries(self, x: jax.Array, position: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(without position [..., H, C], rotated [..., H, C])."""
        c = self.config
        if c.q_lora_rank:
            q = project(self.q_norm(project(x, self.q_down_DQ)), self.q_up_QHC)
        else:
            q = project(x, self.q_DHC)
        nope, rope = jnp.split(q, [c.nope_head_dim], axis=-1)
        return nope, rotary(rope, position[..., None], c.rope_theta)

    def _latent(self, x: jax.Array, position: jax.Array) -> jax.Array:
        """The cached vector [..., W] of each token."""
        c = self.config
        low, rope = jnp.split(project(x, self.kv_down_DW), [c.kv_lora_rank], axis=-1)
        return jnp.concatenate([self.kv_norm(low), rotary(rope, position, c.rope_theta)], axis=-1)

    @property
    def _scale(self) -> float:
        return (self.config.nope_head_dim + self.config.rope_head_dim) ** -0.5

    def _expanded(self, x_RTD: jax.Array, where: Rows) -> tuple[jax.Array, jax.Array]:
        q_nope, q_rope = self._queries(x_RTD, where.position_RT)
        latent_RTW = self._latent(x_RTD, where.position_RT)
        low_RTW, k_rope_RTC = jnp.split(latent_RTW, [self.config.kv_lora_rank], axis=-1)
        k_nope = project(low_RTW, self.k_up_WHC)
        k_rope = jnp.broadcast_to(k_rope_RTC[:, :, None, :], (*k_nope.shape[:3], k_rope_RTC.shape[-1]))
        q_RTHC = jnp.concatenate([q_nope, q_rope], axis=-1) * self._scale
        k_RTHC = jnp.concatenate([k_nope, k_rope], axis=-1)
        v_RTHC = project(low_RTW, self.v_up_WHC)
        mixed_RTHC = attend(q_RTHC, k_RTHC, v_RTHC, where.mask_RTT)
        return project(mixed_RTHC, self.out_HCD, axes=2), latent_RTW

    def _absorbed(self, x_BD: jax.Array, where: DecodeStep, cache: LayerCache) -> tuple[jax.Array, jax.Array]:
        prompts, prompt_slots, width = cache.prompt_PSW.shape
        batch, own_slots, _ = cache.own_BSW.shape
        heads = self.config.heads
        q_nope, q_rope = self._queries(x_BD, where.position_B)
        q_latent = jnp.einsum("bhc,whc->bhw", q_nope, self.k_up_WHC)
        q_BHW = jnp.concatenate([q_latent, q_rope], axis=-1) * self._scale
        latent_BW = self._latent(x_BD, where.position_B)

        q_PGHW = q_BHW.reshape(prompts, batch // prompts * heads, width)
        on_prompt = jnp.einsum("pgw,psw->pgs", q_PGHW, cache.prompt_PSW, preferred_element_type=jnp.float32)
        in_prompt = jnp.arange(prompt_slots)[None] < where.prompt_length_P[:, None]
        on_prompt = jnp.where(in_prompt[:, None], on_prompt, MASKED).reshape(batch, heads, prompt_slots)
        on_own = jnp.einsum("bhw,bsw->bhs", q_BHW, cache.own_BSW, preferred_element_type=jnp.float32)
        on_own = jnp.where(jnp.arange(own_slots)[None, None] < where.generated, on_own, MASKED)
        on_self = jnp.einsum("bhw,bw->bh", q_BHW, latent_BW, preferred_element_type=jnp.float32)[..., None]

        score = jnp.concatenate([on_prompt, on_own, on_self], axis=-1)
        share = jax.nn.softmax(score, axis=-1).astype(x_BD.dtype)
        of_prompt, of_own, of_self = jnp.split(share, [prompt_slots, prompt_slots + own_slots], axis=-1)
        low = self.config.kv_lora_rank
        grouped = of_prompt.reshape(prompts, -1, prompt_slots)
        mixed = jnp.einsum("pgs,psw->pgw", grouped, cache.prompt_PSW[..., :low]).reshape(batch, heads, low)
        mixed += jnp.einsum("bhs,bsw->bhw", of_own, cache.own_BSW[..., :low])
        mixed += of_self * latent_BW[:, None, :low]
        value_BHC = jnp.einsum("bhw,whc->bhc", mixed, self.v_up_WHC)
        return project(value_BHC, self.out_HCD, axes=2), latent_BW
