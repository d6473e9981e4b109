"""Group-relative advantages: the baseline is the mean reward of the samples of the same prompt."""

from __future__ import annotations

import difflib

import chex
import jax
import jax.numpy as jnp

from r1jax.types import Array

SCALES = ("std", "none", "batch")


def group_advantages(rewards_PG: Array, *, scale: str = "std", eps: float = 1e-4) -> jax.Array:
    """A reward minus its group's mean, over a scale.

        A[p, g] = (r[p, g] - mean_g r[p]) / (s + eps)

    Args:
      rewards_PG: finite rewards, G samples of each of P prompts.
      scale: what s is: "std" the group's population standard deviation (GRPO), "batch" that of all P * G
        rewards, "none" no division at all (Dr. GRPO).
      eps: added to s, in units of reward.

    Returns:
      advantages_PG, float32. A group of one, or of equal rewards, gives exact zeros.

    Raises:
      ValueError: `scale` is unknown, or there are no rewards.

    Source: DeepSeekMath (arXiv 2402.03300), section 4.1.2; "none" is Dr. GRPO (arXiv 2503.20783).
    """
    check_option("scale", scale, SCALES)
    chex.assert_rank(rewards_PG, 2)
    if 0 in rewards_PG.shape:
        raise ValueError(f"rewards_PG has shape {rewards_PG.shape}; expected at least one prompt and one sample")
    rewards_PG = jnp.asarray(rewards_PG, jnp.float32)
    # Measured from a reward of the group itself, equal rewards are zeros before the mean can round.
    from_first_PG = rewards_PG - rewards_PG[:, :1]
    centred_PG = from_first_PG - jnp.mean(from_first_PG, axis=1, keepdims=True)
    if scale == "none":
        return centred_PG
    if scale == "std":
        return centred_PG / (jnp.sqrt(jnp.mean(centred_PG**2, axis=1, keepdims=True)) + eps)
    return centred_PG / (jnp.std(rewards_PG - rewards_PG[0, 0]) + eps)


def decoupled_advantages(
    rewards_KPG: Array, mine_KPG: Array, weights_K: Array, *, scale: str = "std", eps: float = 1e-4
) -> jax.Array:
    """Each of K rewards against its own group, then their weighted sum, against the whole batch.

        A[p, g] = (S[p, g] - mean S) / (std S + eps),   S = sum_k w[k] * group_advantages(r[k])

    So a reward's say depends on its weight alone, not on how widely it happens to spread.

    Args:
      rewards_KPG: finite rewards of each function.
      mine_KPG: False where the function said 'not mine'; there its advantage is 0 (it stands at its group's mean).
      weights_K: of the functions.
      scale: as in `group_advantages`, of each reward.
      eps: added to both deviations.

    Returns:
      advantages_PG, float32; exact zeros where all rewards are equal in their groups.

    Source: GDPO (arXiv 2601.05242); None is our own case.
    """
    chex.assert_rank([rewards_KPG, mine_KPG, weights_K], [3, 3, 1])
    chex.assert_equal_shape([rewards_KPG, mine_KPG])
    rewards_KPG, mine_KPG = jnp.asarray(rewards_KPG, jnp.float32), jnp.asarray(mine_KPG, bool)
    # Measured from the group's first own reward, equal rewards are zeros before a mean can round.
    first_KP1 = jnp.argmax(mine_KPG, axis=2, keepdims=True)
    own_KPG = jnp.where(mine_KPG, rewards_KPG - jnp.take_along_axis(rewards_KPG, first_KP1, axis=2), 0.0)
    count_KP1 = jnp.maximum(jnp.sum(mine_KPG, axis=2, keepdims=True), 1)
    mean_KP1 = jnp.sum(own_KPG, axis=2, keepdims=True) / count_KP1
    filled_KPG = jnp.where(mine_KPG, own_KPG, mean_KP1)
    sum_PG = sum(
        weight * group_advantages(rewards_PG, scale=scale, eps=eps)
        for weight, rewards_PG in zip(jnp.asarray(weights_K, jnp.float32), filled_KPG, strict=True)
    )
    return (sum_PG - jnp.mean(sum_PG)) / (jnp.std(sum_PG) + eps)


def check_option(field: str, got: str, expected: tuple[str, ...]) -> None:
    """Raises ValueError, naming the nearest option, unless `got` is one of `expected`."""
    if got not in expected:
        near = difflib.get_close_matches(str(got), expected, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{field} is {got!r}; expected one of {', '.join(map(repr, expected))}{hint}")
