"""The policy: embedding, dense layers, mixture-of-experts layers, final norm, head. One module samples and trains.

Used functionally: `variables = {"params": ..., "router": ...}` is passed in, nothing is mutated. "router" holds the
load biases, which no gradient touches.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from r1jax.config import PolicyConfig
from r1jax.mesh import constrain
from r1jax.models.attention import DecodeStep, LatentAttention, LayerCache, Rows, visible
from r1jax.models.layers import GatedFFN, RMSNorm
from r1jax.models.moe import MoE, MoeOutput
from r1jax.types import Packed, PyTree


class Aux(NamedTuple):
    """What the forward pass says beside its hidden states; mixture layers only, zero layers long in a dense policy."""

    load_NE: jax.Array  # int32, assignments an expert received
    balance: jax.Array  # float32, sequence-wise balance loss, summed over sequences, mean over layers
    dropped: jax.Array  # int32, assignments that found no slot


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then x + ffn(norm(x))."""

    config: PolicyConfig
    mixture: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, where: Rows | DecodeStep, segment: jax.Array, cache: LayerCache | None
    ) -> tuple[jax.Array, tuple[jax.Array, MoeOutput | None]]:
        c = self.config
        mixed, latent = LatentAttention(c, name="attention")(RMSNorm(c, name="attention_norm")(x), where, cache)
        x = x + mixed
        normed = RMSNorm(c, name="ffn_norm")(x)
        if self.mixture:
            y, output = MoE(c, name="moe")(normed, segment)
        else:
            y, output = GatedFFN(c, c.dense_ffn, name="ffn")(normed), None
        return x + y, (latent, output)


_REMAT = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


def _stack(config: PolicyConfig, mixture: bool, layers: int, name: str) -> Any:
    """`layers` blocks scanned over, so that compile time and code do not grow with depth."""
    block: Any = Block
    if config.remat != "none":
        block = nn.remat(Block, policy=_REMAT[config.remat], prevent_cse=False)
    scanned = nn.scan(
        block,
        variable_axes={"params": 0, "router": 0},
        split_rngs={"params": True},
        in_axes=(nn.broadcast, nn.broadcast, 0),
        out_axes=0,
        length=layers,
    )
    return scanned(config, mixture, name=name)


class PolicyModel(nn.Module):
    """DeepSeek-V3 (arXiv 2412.19437), of any size."""

    config: PolicyConfig

    def setup(self):
        c = self.config
        init = nn.initializers.normal(c.init_scale)
        self.embed_VD = self.param("embed_VD", init, (c.vocab_size, c.width), jnp.dtype(c.param_dtype))
        self.head_DV = self.param("head_DV", init, (c.width, c.vocab_size), jnp.dtype(c.param_dtype))
        self.stacks = [
            _stack(c, mixture, layers, name)
            for mixture, layers, name in ((False, c.dense_layers, "dense"), (True, c.layers - c.dense_layers, "moe"))
            if layers
        ]
        self.norm = RMSNorm(c)

    def __call__(self, packed: Packed) -> tuple[jax.Array, Aux]:
        """Hidden states of packed rows: (hidden_RTD after the final norm, Aux). Logits are `hidden @ head_DV`."""
        hidden, _, aux = self._rows(packed.tokens_RT, packed.segment_RT, packed.branch_RT, packed.position_RT)
        return hidden, aux

    def prefill(self, tokens_PL: jax.Array, length_P: jax.Array) -> tuple[jax.Array, PyTree]:
        """Reads right-padded prompts.

        Returns:
          (hidden_PD of each prompt's last token, latents of every layer: one [N, P, S, W] array a stack)
        """
        at = jnp.arange(tokens_PL.shape[1])[None]
        segment = (at < length_P[:, None]).astype(jnp.int32)
        position = jnp.broadcast_to(at, tokens_PL.shape)
        hidden, latents, _ = self._rows(tokens_PL, segment, jnp.zeros_like(segment), position)
        last = jnp.take_along_axis(hidden, jnp.maximum(length_P - 1, 0)[:, None, None], axis=1)[:, 0]
        return last, latents

    def decode(self, token_B: jax.Array, step: DecodeStep, caches: list[LayerCache]) -> tuple[jax.Array, PyTree]:
        """One token for each sequence, read against the caches.

        Returns:
          (hidden_BD, the tokens' latents: one [N, B, W] array a stack, to be written to the caches)
        """
        x = constrain(jnp.take(self.embed_VD, token_B, axis=0).astype(self.config.dtype), "BD")
        segment = jnp.arange(1, token_B.shape[0] + 1)
        latents = []
        for stack, cache in zip(self.stacks, caches, strict=True):
            x, (latent, _) = stack(x, step, segment, cache)
            latents.append(latent)
        return self.norm(x), latents

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Scores of the next token, float32."""
        return jnp.matmul(hidden, self.head_DV.astype(self.config.dtype), preferred_element_type=jnp.float32)

    def _rows(self, tokens_RT, segment_RT, branch_RT, position_RT) -> tuple[jax.Array, PyTree, Aux]:
        rows = Rows(position_RT, visible(segment_RT, branch_RT))
        x = constrain(jnp.take(self.embed_VD, tokens_RT, axis=0).astype(self.config.dtype), "RTD")
        # Segments are numbered within a row; the balance loss wants numbers unique over the batch.
        row = jnp.arange(tokens_RT.shape[0])[:, None] * tokens_RT.shape[1]
        segment = jnp.where(segment_RT > 0, segment_RT + row, 0)
        latents, aux = [], _no_experts(self.config)
        for stack in self.stacks:
            x, (latent, moe) = stack(x, rows, segment, None)
            latents.append(latent)
            if moe is not None:
                aux = Aux(moe.load_E, moe.balance.mean(), moe.dropped.sum())
        return constrain(self.norm(x), "RTD"), latents, aux


def _no_experts(config: PolicyConfig) -> Aux:
    return Aux(jnp.zeros((0, max(config.experts, 1)), jnp.int32), jnp.zeros(()), jnp.zeros((), jnp.int32))


def forward(config: PolicyConfig, variables: PyTree, packed: Packed) -> tuple[jax.Array, Aux]:
    """(hidden_RTD, Aux) of packed rows."""
    return cast(tuple[jax.Array, Aux], PolicyModel(config).apply(variables, packed))


def init_variables(config: PolicyConfig, key: jax.Array) -> PyTree:
    """Fresh variables {"params", "router"} of a policy of this shape; "router" is empty in a dense one."""
    ones = jnp.ones((1, 1), jnp.int32)
    packed = Packed(ones, ones, 0 * ones, 0 * ones, ones, ones.astype(jnp.float32))
    variables = PolicyModel(config).init(key, packed)
    return {"params": variables["params"], "router": variables.get("router", {})}


def abstract_variables(config: PolicyConfig) -> PyTree:
    """Shapes and dtypes of `init_variables`, without computing anything."""
    return jax.eval_shape(lambda: init_variables(config, jax.random.key(0)))


@functools.cache
def parameter_count(config: PolicyConfig) -> tuple[int, int]:
    """(all parameters, those active for one token), from shapes alone; embedding and head included in both."""
    leaves = jax.tree_util.tree_leaves_with_path(abstract_variables(config)["params"])
    total = active = 0.0
    for path, leaf in leaves:
        name = str(getattr(path[-1], "key", ""))
        routed = name in ("gate_EDF", "up_EDF", "down_EFD")
        total += leaf.size
        active += leaf.size * (config.active_experts / config.experts if routed else 1.0)
    return int(total), round(active)
