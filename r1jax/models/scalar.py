"""A scalar head on a policy: the score of a reply, read from the hidden state at its end-of-text token.

The variables are those of a policy without what only serves to predict tokens, and with the head's own.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from r1jax.config import PolicyConfig
from r1jax.models.policy import Aux, abstract_variables, forward
from r1jax.types import Array, Packed, PyTree

TOKEN_HEADS = ("head_DV", "mtp")  # parameters that hidden states do not depend on
HEAD = ("score_D", "score_bias")


def scalar_variables(config: PolicyConfig, policy: PyTree) -> PyTree:
    """A policy's variables with a scalar head that scores everything 0, in place of its token heads.

    Started at zero, the head's first gradient depends on the hidden states alone: no draw decides what is preferred.
    """
    kept = {name: value for name, value in policy["params"].items() if name not in TOKEN_HEADS}
    dtype = jnp.dtype(config.param_dtype)
    head = {"score_D": jnp.zeros((config.width,), dtype), "score_bias": jnp.zeros((), dtype)}
    return {"params": kept | head, "router": policy["router"]}


def abstract_scalar(config: PolicyConfig) -> PyTree:
    """Shapes and dtypes of `scalar_variables`, without computing anything."""
    return jax.eval_shape(lambda policy: scalar_variables(config, policy), abstract_variables(config))


def scores(config: PolicyConfig, variables: PyTree, packed: Packed, place_B: Array) -> tuple[jax.Array, Aux]:
    """Scores of the replies in packed rows.

    Args:
      place_B: flat place r * T + t of each reply's end-of-text token; one outside of the rows scores the bias.

    Returns:
      (score_B float32, Aux of the forward pass).
    """
    params = variables["params"]
    hidden_RTD, aux = _hidden(config, variables, packed)
    flat_XD = hidden_RTD.reshape(-1, config.width).astype(jnp.float32)
    inside_B = (place_B >= 0) & (place_B < flat_XD.shape[0])
    hidden_BD = jnp.take(flat_XD, jnp.where(inside_B, place_B, flat_XD.shape[0]), axis=0, mode="fill", fill_value=0.0)
    return hidden_BD @ params["score_D"].astype(jnp.float32) + params["score_bias"].astype(jnp.float32), aux


def values(config: PolicyConfig, variables: PyTree, packed: Packed) -> tuple[jax.Array, Aux]:
    """(value_RT float32, Aux): a score at every place, of the text up to its token: a critic's reading."""
    params = variables["params"]
    hidden_RTD, aux = _hidden(config, variables, packed)
    return hidden_RTD.astype(jnp.float32) @ params["score_D"].astype(jnp.float32) + params["score_bias"].astype(
        jnp.float32
    ), aux


def _hidden(config: PolicyConfig, variables: PyTree, packed: Packed) -> tuple[jax.Array, Aux]:
    """(hidden_RTD, Aux) of the trunk."""
    trunk = {name: value for name, value in variables["params"].items() if name not in HEAD} | _unread(config)
    return forward(config, {"params": trunk, "router": variables["router"]}, packed)


def _unread(config: PolicyConfig) -> dict[str, PyTree]:
    """What the policy's module declares and hidden states never read, so that the compiler drops it."""
    declared = abstract_variables(config)["params"]
    return {
        name: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), declared[name])
        for name in TOKEN_HEADS
        if name in declared
    }
