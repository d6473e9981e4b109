"""Rotary positions (RoPE, Su et al. 2021, arXiv 2104.09864), and the two ways of stretching them to longer contexts."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.config import PolicyConfig
from r1jax.types import Array


def frequencies(config: PolicyConfig, channels: int) -> np.ndarray:
    """Radians a position of each of `channels` / 2 pairs, float64, by `policy.rope_scaling`.

    "yarn" keeps waves that turn more than `rope_beta_fast` times over the original context, stretches those that turn
    less than `rope_beta_slow` times by `rope_factor`, and goes linearly from one to the other, by the number of the
    pair. "llama3" does so between `rope_high` and `rope_low` turns, linearly in the number of turns.

    Source: YaRN, arXiv 2309.00071, section 3.2, with the rounding of the two pairs that DeepSeek-V3 and transformers
    share; Llama 3.1's `rope_scaling`, as in transformers.
    """
    pairs = channels // 2
    frequency = config.rope_theta ** (-np.arange(pairs) / pairs)
    if config.rope_scaling == "none":
        return frequency
    if config.rope_scaling == "yarn":

        def pair(turns: float) -> float:
            """The pair, a real number, that turns so many times over the original context."""
            return pairs * math.log(config.rope_original / (turns * 2 * math.pi)) / math.log(config.rope_theta)

        first = max(math.floor(pair(config.rope_beta_fast)), 0)
        last = min(math.ceil(pair(config.rope_beta_slow)), channels - 1)
        kept = 1 - np.clip((np.arange(pairs) - first) / max(last - first, 1e-3), 0, 1)
    else:
        turns = config.rope_original * frequency / (2 * math.pi)
        kept = np.clip((turns - config.rope_low) / (config.rope_high - config.rope_low), 0, 1)
    return kept * frequency + (1 - kept) * frequency / config.rope_factor


def rotary(x: jax.Array, position: Array, config: PolicyConfig) -> jax.Array:
    """Rotates pairs of the last axis by position-dependent angles (eq. 34); under YaRN it grows them a little, too.

    Args:
      x: [..., C] with C even. Pairs are (0, 1), (2, 3), ... if `policy.rope_pairs` is "interleaved" (DeepSeek), and
        (0, C/2), (1, C/2 + 1), ... if "halves" (Qwen, Llama).
      position: integer positions, broadcastable to x.shape[:-1].
    """
    frequency = jnp.asarray(frequencies(config, x.shape[-1]), jnp.float32)
    angle = jnp.multiply.outer(jnp.asarray(position, jnp.float32), frequency)
    size = _growth(config, config.rope_mscale) / _growth(config, config.rope_mscale_all)
    cos, sin = jnp.cos(angle) * size, jnp.sin(angle) * size
    wide = x.astype(jnp.float32)
    if config.rope_pairs == "interleaved":
        even, odd = wide[..., 0::2], wide[..., 1::2]
        turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)
    else:
        low, high = jnp.split(wide, 2, axis=-1)
        turned = jnp.concatenate([low * cos - high * sin, low * sin + high * cos], axis=-1)
    return turned.astype(x.dtype)


def score_scale(config: PolicyConfig, channels: int) -> float:
    """What a query is multiplied by before its scores: 1 / sqrt(channels), times YaRN's growth squared."""
    return channels**-0.5 * _growth(config, config.rope_mscale_all) ** 2


def _growth(config: PolicyConfig, mscale: float) -> float:
    """YaRN's 0.1 mscale ln(factor) + 1 (arXiv 2309.00071, eq. 22, with DeepSeek's mscale); 1 without YaRN."""
    return 0.1 * mscale * math.log(config.rope_factor) + 1.0 if config.rope_scaling == "yarn" else 1.0
