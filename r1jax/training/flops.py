"""Model FLOPs, counted analytically, and what a device could do at most: together, model FLOPs utilisation.

XLA's own count sees the body of a scanned layer once, and counts rematerialised work, so it is not used.
"""

from __future__ import annotations

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.config import PolicyConfig
from r1jax.models.policy import mtp_parameter_count, parameter_count
from r1jax.types import Packed

# Dense bfloat16 FLOPs a second of one device, from its maker's data sheet; matched within `device_kind`, in order.
PEAK = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "TPU7x": 2307e12,
    "TPU v6": 918e12,
    "TPU v5p": 459e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v4": 275e12,
}
MEASURED_SIZE = 1024  # of the square matmul that is timed where the table has no entry


def forward_flops(config: PolicyConfig, packed: Packed, *, mtp: bool = False) -> float:
    """FLOPs of one forward pass over packed rows; a backward pass is twice that.

    2 a token and parameter that multiplies it (the embedding is looked up, and experts not chosen rest; a tied one is
    the head, too); for attention 2 a query-key pair, head and channel, of the scores and of the values.

    Args:
      mtp: whether the token after next is predicted, too: one more layer, and the head once more.
    """
    valid_RT = np.asarray(packed.segment_RT) > 0
    tokens = int(valid_RT.sum())
    pairs = int((np.asarray(packed.position_RT)[valid_RT] + 1).sum())  # a token sees its own sequence up to itself
    embedding = config.vocab_size * config.width
    active, layers = parameter_count(config)[1] - (0 if config.tied else embedding), config.layers
    if mtp:
        active, layers = active + mtp_parameter_count(config)[1] + embedding, layers + 1
    return 2.0 * active * tokens + 2.0 * layers * config.heads * _channels(config) * pairs


def _channels(config: PolicyConfig) -> int:
    """Of a head: those that make a score, and those of a value."""
    if config.attention == "gqa":
        return 2 * config.head_dim
    return config.nope_head_dim + config.rope_head_dim + config.v_head_dim


@functools.cache
def peak_flops() -> float:
    """FLOPs a second of all devices together: from the table, else measured here by timing a matmul."""
    devices = jax.devices()
    kind = devices[0].device_kind
    known = next((peak for name, peak in PEAK.items() if name in kind), None)
    if known is not None:
        return known * len(devices)
    # The devices of a CPU are made up: they share its cores, and one matmul uses them all.
    return _measured() * (1 if devices[0].platform == "cpu" else len(devices))


def _measured() -> float:
    x = jnp.ones((MEASURED_SIZE, MEASURED_SIZE), jnp.float32)
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        product(x, x).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2.0 * MEASURED_SIZE**3 / min(seconds)
