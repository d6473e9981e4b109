"""The small layers: RMSNorm, flat projections, and the gated feed-forward.

Parameters' names end in their axes (see `types.py`), from which `mesh.py` reads their sharding.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from r1jax.config import PolicyConfig
from r1jax.models.sharded import is_split


def weight(module: nn.Module, config: PolicyConfig, name: str, shape: tuple[int, ...]) -> jax.Array:
    """A matrix parameter, normally initialised, in the compute dtype.

    Where the variables have scales for it (the collection "scales"), the parameter is in units of them, as of 8-bit
    integers, and is scaled here, at its use: no more than a layer's matrices are there in full.
    """
    init = nn.initializers.normal(config.init_scale)
    w = module.param(name, init, shape, jnp.dtype(config.param_dtype)).astype(config.dtype)
    scales = scales_name(name)
    if not module.has_variable("scales", scales):
        return w
    return w * jnp.broadcast_to(module.get_variable("scales", scales).astype(config.dtype), shape)


def scales_name(name: str) -> str:
    """Of a matrix's scales, one an output channel: the other axes have size 1, and but for E none is split."""
    stem, letters = name.rsplit("_", 1)
    return f"{stem}_{''.join(letter if letter == 'E' else 'X' for letter in letters)}"


class RMSNorm(nn.Module):
    """x / rms(x) * scale, in float32 inside. Source: Zhang & Sennrich 2019, as DeepSeek-V3 uses it."""

    config: PolicyConfig
    eps: float | None = None  # None: the config's

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        eps = self.config.norm_eps if self.eps is None else self.eps
        scale_D = self.param("scale_X", nn.initializers.ones, (x.shape[-1],), jnp.dtype(self.config.param_dtype))
        wide = x.astype(jnp.float32)
        wide *= jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
        return (wide * jnp.broadcast_to(scale_D, x.shape)).astype(x.dtype)


def project(x: jax.Array, w: jax.Array, axes: int = 1) -> jax.Array:
    """x [..., *in] times w [*in, *out], over the last `axes` axes of x: [..., *out].

    One flat matmul. XLA's CPU backend differentiates a batched form through transposed copies, a third slower. Over a
    mesh the axes stay apart: flattened, a row and its tokens could not both be split.
    """
    if is_split():
        return jnp.tensordot(x, w, axes)
    inner = math.prod(w.shape[:axes])
    lead = x.shape[: x.ndim - axes]
    return (x.reshape(-1, inner) @ w.reshape(inner, -1)).reshape(*lead, *w.shape[axes:])


class GatedFFN(nn.Module):
    """down(silu(gate(x)) * up(x)). Source: Shazeer 2020 (SwiGLU)."""

    config: PolicyConfig
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = self.config.width
        gate_DF = weight(self, self.config, "gate_DF", (width, self.hidden))
        up_DF = weight(self, self.config, "up_DF", (width, self.hidden))
        down_FD = weight(self, self.config, "down_FD", (self.hidden, width))
        return project(nn.silu(project(x, gate_DF)) * project(x, up_DF), down_FD)
