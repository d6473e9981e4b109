"""The policy: embedding, dense layers, mixture-of-experts layers, final norm, head. One module samples and trains.

DeepSeek-V3 and the dense Qwen and Llama are one policy: a block chooses its attention by `config.attention` and its
feed-forward by its place, and a dense policy has no mixture layers.

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
from r1jax.models.attention import DecodeStep, LayerCache, Rows, make_rows
from r1jax.models.attention_gqa import GroupedAttention
from r1jax.models.attention_mla import LatentAttention
from r1jax.models.layers import GatedFFN, RMSNorm, project, weight
from r1jax.models.moe import MoE, MoeOutput
from r1jax.types import Array, Packed, PyTree


class Aux(NamedTuple):
    """What the forward pass says beside its hidden states; mixture layers only, zero layers long in a dense policy."""

    load_NE: jax.Array  # int32, assignments an expert received
    balance: jax.Array  # float32, sequence-wise balance loss, summed over sequences, mean over layers
    dropped: jax.Array  # int32, assignments that found no slot


ATTENTION = {"mla": LatentAttention, "gqa": GroupedAttention}


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then x + ffn(norm(x))."""

    config: PolicyConfig
    mixture: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, where: Rows | DecodeStep, segment: jax.Array, cache: LayerCache | None
    ) -> tuple[jax.Array, tuple[PyTree, MoeOutput | None]]:
        c = self.config
        attention: Any = ATTENTION[c.attention](c, name="attention")
        mixed, kept = attention(RMSNorm(c, name="attention_norm")(x), where, cache)
        x = x + mixed
        normed = RMSNorm(c, name="ffn_norm")(x)
        if self.mixture:
            y, output = MoE(c, name="moe")(normed, segment)
        else:
            y, output = GatedFFN(c, c.dense_ffn, name="ffn")(normed), None
        return x + y, (kept, output)


# What a layer's forward pass leaves for its backward pass, beside its input; the rest is computed again.
_REMAT = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # products with weights
    "latents": jax.checkpoint_policies.save_only_these_names("latents"),  # what a cache keeps of a token
    "attention": jax.checkpoint_policies.save_only_these_names("latents", "attention"),  # and all that is quadratic
}


def _block(config: PolicyConfig) -> Any:
    """`Block`, rematerialised as the config says."""
    if config.remat == "none":
        return Block
    return nn.remat(Block, policy=_REMAT[config.remat], prevent_cse=False)


def _stack(config: PolicyConfig, mixture: bool, layers: int, name: str) -> Any:
    """`layers` blocks scanned over, so that compile time and code do not grow with depth."""
    scanned = nn.scan(
        _block(config),
        variable_axes={"params": 0, "router": 0, "scales": 0},
        split_rngs={"params": True},
        in_axes=(nn.broadcast, nn.broadcast, 0),
        out_axes=0,
        length=layers,
    )
    return scanned(config, mixture, name=name)


class MultiToken(nn.Module):
    """Multi-token prediction: from a token's hidden state and the next token, hidden states of the token after next.

    Source: arXiv 2412.19437, eqs. 21-23, one depth. The hidden states are those after the policy's final norm, and the
    embedding comes first in the joint vector, as the released weights want it.
    """

    config: PolicyConfig

    @nn.compact
    def __call__(
        self, hidden_RTD: jax.Array, next_RTD: jax.Array, where: Rows, segment_RT: jax.Array
    ) -> tuple[jax.Array, MoeOutput]:
        """Args: next_RTD, the embedding of the token after each; segment_RT, ids unique over the batch."""
        c = self.config
        both = [RMSNorm(c, name="embed_norm")(next_RTD), RMSNorm(c, name="hidden_norm")(hidden_RTD)]
        x = project(jnp.concatenate(both, axis=-1), weight(self, c, "join_ID", (2 * c.width, c.width)))
        x, (_, output) = _block(c)(c, True, name="block")(x, where, segment_RT, None)
        return RMSNorm(c, name="norm")(x), output


class PolicyModel(nn.Module):
    """DeepSeek-V3 (arXiv 2412.19437), Qwen 2 and 3, Llama 3, of any size."""

    config: PolicyConfig

    def setup(self):
        c = self.config
        init = nn.initializers.normal(c.init_scale)
        self.embed_VD = self.param("embed_VD", init, (c.vocab_size, c.width), jnp.dtype(c.param_dtype))
        if not c.tied:
            self.head_DV = self.param("head_DV", init, (c.width, c.vocab_size), jnp.dtype(c.param_dtype))
        self.stacks = [
            _stack(c, mixture, layers, name)
            for mixture, layers, name in ((False, c.dense_layers, "dense"), (True, c.layers - c.dense_layers, "moe"))
            if layers
        ]
        self.norm = RMSNorm(c)
        if c.mtp_layers:
            self.mtp = MultiToken(c)

    def __call__(self, packed: Packed) -> tuple[jax.Array, Aux]:
        """Hidden states of packed rows: (hidden_RTD after the final norm, Aux). Logits are `hidden @ head`."""
        hidden, _, aux = self._rows(packed.tokens_RT, packed.segment_RT, packed.branch_RT, packed.position_RT)
        return hidden, aux

    def with_multi_token(self, packed: Packed) -> tuple[jax.Array, jax.Array, Aux]:
        """`__call__`, and the hidden states that predict the token after next: (hidden_RTD, after_next_RTD, Aux).

        Aux counts the additional layer as one more mixture layer, the last. What stands where a row, segment or branch
        ends is to be masked out: there is no next token to read (`training.step.after_next` does so).
        """
        hidden_RTD, aux = self(packed)
        follows_RT = follows(packed)
        next_RT = jnp.pad(packed.tokens_RT[:, 1:], ((0, 0), (0, 1)))
        next_RTD = jnp.where(follows_RT[..., None], self._embed(next_RT), 0)
        rows = make_rows(self.config, packed.position_RT, packed.segment_RT, packed.branch_RT)
        after_next_RTD, moe = self.mtp(hidden_RTD, next_RTD, rows, _unique(packed.segment_RT))
        layers = aux.load_NE.shape[0]
        aux = Aux(
            jnp.concatenate([aux.load_NE, moe.load_E[None]]),
            (aux.balance * layers + moe.balance) / (layers + 1),
            aux.dropped + moe.dropped,
        )
        return hidden_RTD, constrain(after_next_RTD, "RTD"), aux

    def prefill(self, tokens_PL: jax.Array, length_P: jax.Array) -> tuple[jax.Array, PyTree]:
        """Reads right-padded prompts.

        Returns:
          (hidden_PD of each prompt's last token, what each layer's cache keeps, a `LayerCache.prompt` a stack)
        """
        at = jnp.arange(tokens_PL.shape[1])[None]
        segment = (at < length_P[:, None]).astype(jnp.int32)
        position = jnp.broadcast_to(at, tokens_PL.shape)
        hidden, kept, _ = self._rows(tokens_PL, segment, jnp.zeros_like(segment), position)
        last = jnp.take_along_axis(hidden, jnp.maximum(length_P - 1, 0)[:, None, None], axis=1)[:, 0]
        return last, kept

    def decode(
        self, token_B: jax.Array, step: DecodeStep, caches: list[LayerCache], layers: list[PyTree] | None = None
    ) -> tuple[jax.Array, list[PyTree]]:
        """One token for each sequence, read against the caches.

        Args:
          caches: one a stack; one a layer, without the leading N, where `layers` is given.
          layers: each layer's variables (`apart`); without them the layers are scanned over.

        Returns:
          (hidden_BD, what the caches keep of the tokens, to be written to them)
        """
        x = constrain(self._embed(token_B), "BD")
        segment = jnp.arange(1, token_B.shape[0] + 1)
        kept = []
        for i, cache in enumerate(caches):
            if layers is None:
                x, (new, _) = self.stacks[i](x, step, segment, cache)
            else:
                block = Block(self.config, mixture=i >= self.config.dense_layers, parent=None)
                x, (new, _) = cast(Any, block.apply(layers[i], x, step, segment, cache))
            kept.append(new)
        return self.norm(x), kept

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Scores of the next token, float32."""
        head_DV = self.embed_VD.T if self.config.tied else self.head_DV
        return jnp.matmul(hidden, head_DV.astype(self.config.dtype), preferred_element_type=jnp.float32)

    def _embed(self, tokens: jax.Array) -> jax.Array:
        return jnp.take(self.embed_VD, tokens, axis=0).astype(self.config.dtype)

    def _rows(self, tokens_RT, segment_RT, branch_RT, position_RT) -> tuple[jax.Array, PyTree, Aux]:
        rows = make_rows(self.config, position_RT, segment_RT, branch_RT)
        x = constrain(self._embed(tokens_RT), "RTD")
        segment = _unique(segment_RT)
        kept, aux = [], _no_experts(self.config)
        for stack in self.stacks:
            x, (new, moe) = stack(x, rows, segment, None)
            kept.append(new)
            if moe is not None:
                aux = Aux(moe.load_E, moe.balance.mean(), moe.dropped.sum())
        return constrain(self.norm(x), "RTD"), kept, aux


def apart(config: PolicyConfig, variables: PyTree) -> list[PyTree]:
    """Each layer's variables, out of the stacks: for where a scan copies a layer's weights a token, as on CPU."""
    sizes = (("dense", config.dense_layers), ("moe", config.layers - config.dense_layers))
    return [
        {kind: jax.tree.map(lambda x: x[i], tree[name]) for kind, tree in variables.items() if name in tree}  # noqa: B023
        for name, layers in sizes
        for i in range(layers)
    ]


def _unique(segment_RT: Array) -> jax.Array:
    """Segments, numbered within a row, by numbers unique over the batch, as the balance loss wants them."""
    row = jnp.arange(segment_RT.shape[0])[:, None] * segment_RT.shape[1]
    return jnp.where(segment_RT > 0, segment_RT + row, 0)


def _no_experts(config: PolicyConfig) -> Aux:
    return Aux(jnp.zeros((0, max(config.experts, 1)), jnp.int32), jnp.zeros(()), jnp.zeros((), jnp.int32))


def follows(packed: Packed) -> jax.Array:
    """follows_RT: whether the token to the right in the row is the next of the same segment and branch."""
    pairs = ((x[:, :-1], x[:, 1:]) for x in (packed.segment_RT, packed.branch_RT))
    same = functools.reduce(jnp.logical_and, (left == right for left, right in pairs))
    return jnp.pad(same & (jnp.asarray(packed.segment_RT)[:, 1:] > 0), ((0, 0), (0, 1)))


def forward(config: PolicyConfig, variables: PyTree, packed: Packed) -> tuple[jax.Array, Aux]:
    """(hidden_RTD, Aux) of packed rows."""
    return cast(tuple[jax.Array, Aux], PolicyModel(config).apply(variables, packed))


def forward_multi_token(config: PolicyConfig, variables: PyTree, packed: Packed) -> tuple[jax.Array, jax.Array, Aux]:
    """(hidden_RTD, after_next_RTD, Aux) of packed rows; see `PolicyModel.with_multi_token`."""
    out = PolicyModel(config).apply(variables, packed, method="with_multi_token")
    return cast(tuple[jax.Array, jax.Array, Aux], out)


def head(config: PolicyConfig, variables: PyTree) -> jax.Array:
    """head_DV, which is the embedding if they are tied."""
    params = variables["params"]
    return params["embed_VD"].T if config.tied else params["head_DV"]


def init_variables(config: PolicyConfig, key: jax.Array) -> PyTree:
    """Fresh variables {"params", "router"} of a policy of this shape; "router" is empty in a dense one."""
    ones = jnp.ones((1, 1), jnp.int32)
    packed = Packed(ones, ones, 0 * ones, 0 * ones, ones, ones.astype(jnp.float32))
    method = "with_multi_token" if config.mtp_layers else "__call__"
    variables = PolicyModel(config).init(key, packed, method=method)
    return {"params": variables["params"], "router": variables.get("router", {})}


def abstract_variables(config: PolicyConfig) -> PyTree:
    """Shapes and dtypes of `init_variables`, without computing anything."""
    return jax.eval_shape(lambda: init_variables(config, jax.random.key(0)))


@functools.cache
def parameter_count(config: PolicyConfig) -> tuple[int, int]:
    """(all parameters, those active for one token), from shapes alone; embedding and head included in both.

    The layer of multi-token prediction is in the first, and not in the second: no token needs it.
    """
    leaves = jax.tree_util.tree_leaves_with_path(abstract_variables(config)["params"])
    total = active = 0.0
    for path, leaf in leaves:
        total += leaf.size
        if path[0].key != "mtp":
            active += leaf.size * _active_share(config, path)
    return int(total), round(active)


def mtp_parameter_count(config: PolicyConfig) -> tuple[int, int]:
    """(all parameters of multi-token prediction, those active for one token); embedding and head are the policy's."""
    leaves = jax.tree_util.tree_leaves_with_path(abstract_variables(config)["params"].get("mtp", {}))
    return sum(leaf.size for _, leaf in leaves), round(sum(leaf.size * _active_share(config, p) for p, leaf in leaves))


def _active_share(config: PolicyConfig, path: tuple) -> float:
    """The share of a parameter that one token passes."""
    routed = str(getattr(path[-1], "key", "")) in ("gate_EDF", "up_EDF", "down_EFD")
    return config.active_experts / config.experts if routed else 1.0
