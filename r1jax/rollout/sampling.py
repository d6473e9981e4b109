"""Logits to tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def sample(
    logits_BV: jax.Array, key_B: jax.Array, *, temperature: jax.Array | float, top_k: int, top_p: float
) -> tuple[jax.Array, jax.Array]:
    """One token a row, by inverting the cumulative distribution with one uniform number a row.

    The log-probability is that of the whole distribution at this temperature, before top-k and top-p: the quantity
    that the trainer recomputes. A row depends on its own logits and key alone.

    Args:
      logits_BV: float32.
      key_B: a typed key for each row.
      temperature: > 0; 0 takes the best token, its log-probability then that at temperature 1.
      top_k: keep the k best; 0 keeps all. Static.
      top_p: keep the fewest best tokens whose probability reaches p. Static.

    Returns:
      (token_B int32, logp_B float32 in nats)
    """
    greedy = jnp.asarray(temperature) == 0
    scaled = logits_BV / jnp.where(greedy, 1.0, temperature)
    logp_BV = jax.nn.log_softmax(scaled, axis=-1)
    probability = jnp.exp(logp_BV)
    if top_k:
        probability = _keep(probability, jnp.ones_like(probability), min(top_k, logits_BV.shape[-1]))
    if top_p < 1.0:
        probability = _keep(probability, probability, top_p * probability.sum(-1, keepdims=True))
    cumulative = jnp.cumsum(probability, axis=-1)
    total = cumulative[:, -1:]
    uniform = jax.vmap(jax.random.uniform)(key_B)[:, None]
    above = (cumulative > jnp.minimum(uniform * total, jnp.nextafter(total, 0.0))) & (probability > 0)
    drawn_B, is_drawn_B = jnp.argmax(above, axis=-1), above.any(-1) & ~greedy
    # A float cumulative sum may dip by a rounding; then no token stands above, and the best one is taken. It is
    # looked for only then, as it takes longer than all the rest.
    token_B = jax.lax.cond(
        is_drawn_B.all(),
        lambda: drawn_B,
        lambda: jnp.where(is_drawn_B, drawn_B, jnp.argmax(logits_BV, axis=-1)),
    ).astype(jnp.int32)
    return token_B, jnp.take_along_axis(logp_BV, token_B[:, None], axis=-1)[:, 0]


def _keep(probability: jax.Array, mass: jax.Array, enough: jax.Array | float) -> jax.Array:
    """Zeroes all but the most probable tokens whose `mass` together reaches `enough`; ties stay in.

    The cut is the largest probability whose own and all higher ones' mass is enough. It is found by bisection over
    the bits of the float (which order as the numbers do): 31 masked sums, where a sort over the vocabulary is many
    times slower on CPU.
    """
    bits = jax.lax.bitcast_convert_type(probability, jnp.int32)

    def halve(i, cut):
        candidate = cut | jnp.left_shift(1, 30 - i)
        reached = jnp.sum(jnp.where(bits >= candidate, mass, 0.0), axis=-1, keepdims=True) >= enough
        return jnp.where(reached, candidate, cut)

    cut = jax.lax.fori_loop(0, 31, halve, jnp.zeros((*probability.shape[:-1], 1), jnp.int32))
    return jnp.where(bits >= cut, probability, 0.0)
