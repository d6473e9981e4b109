"""The small policy that the array tests share: its shape, weights of which none is trivial, and compiled functions."""

from __future__ import annotations

import dataclasses
import functools
from unittest import mock

import jax
import numpy as np

from r1jax.config import MeshConfig, PolicyConfig
from r1jax.mesh import make_mesh
from r1jax.models.policy import Aux, PolicyModel, abstract_variables
from r1jax.rollout.engine import Engine
from r1jax.types import Packed, PyTree

# Tests compile more than they compute: without LLVM's optimisations and the code generator that wants them, a program
# is there ten times sooner.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}
jit = functools.partial(jax.jit, compiler_options=QUICK)

CONFIG = PolicyConfig(
    vocab_size=32,
    width=16,
    layers=3,
    dense_layers=1,
    attention="mla",
    heads=2,
    q_lora_rank=0,
    kv_lora_rank=8,
    nope_head_dim=4,
    rope_head_dim=4,
    v_head_dim=6,
    kv_heads=0,
    head_dim=0,
    attention_bias=False,
    qk_norm=False,
    attention_block=0,
    rope_theta=100.0,
    rope_pairs="interleaved",
    rope_scaling="none",
    rope_factor=1.0,
    rope_original=0,
    rope_beta_fast=0.0,
    rope_beta_slow=0.0,
    rope_mscale=0.0,
    rope_mscale_all=0.0,
    rope_low=0.0,
    rope_high=0.0,
    dense_ffn=24,
    experts=8,
    active_experts=2,
    shared_experts=1,
    expert_ffn=12,
    score="sigmoid",
    expert_groups=4,
    kept_groups=2,
    group_score="top2",
    norm_topk=True,
    routed_scale=1.7,
    mtp_layers=0,
    tied=False,
    norm_eps=1e-6,
    context=64,
    init_scale=0.3,
    dtype="float32",
    param_dtype="float32",
    remat="none",
)

# A dense policy of grouped-query attention: neither kind of size that it has no use for is given.
DENSE = dataclasses.replace(
    CONFIG,
    dense_layers=3,
    attention="gqa",
    heads=4,
    kv_lora_rank=0,
    nope_head_dim=0,
    rope_head_dim=0,
    v_head_dim=0,
    kv_heads=2,
    head_dim=6,
    rope_pairs="halves",
    experts=0,
    active_experts=0,
    shared_experts=0,
    expert_ffn=0,
    expert_groups=0,
    kept_groups=0,
)
YARN = dict(
    rope_scaling="yarn", rope_factor=8.0, rope_original=16, rope_beta_fast=2.0, rope_beta_slow=0.1,
    rope_mscale=1.0, rope_mscale_all=0.7,
)  # fmt: skip
# One of each family: what r1jax computes of it, every test of the policy's arithmetic asks.
FAMILIES = {
    "deepseek": CONFIG,
    "deepseek, low-rank queries, YaRN": dataclasses.replace(CONFIG, q_lora_rank=6, **YARN),
    "deepseek 16B: softmax scores": dataclasses.replace(
        CONFIG, score="softmax", group_score="max", norm_topk=False, expert_groups=2, kept_groups=1, dense_layers=0
    ),
    "qwen2: biases, tied": dataclasses.replace(DENSE, attention_bias=True, tied=True),
    "qwen3: norms of queries and keys": dataclasses.replace(DENSE, qk_norm=True),
    "llama3: scaled positions": dataclasses.replace(
        DENSE, rope_scaling="llama3", rope_factor=4.0, rope_original=32, rope_low=1.0, rope_high=4.0
    ),
}


def quick():
    """Within it, `jax.jit` is the `jit` above, for code that compiles its own programs."""
    return mock.patch.object(jax, "jit", jit)


ONE_DEVICE = MeshConfig(data=1, fsdp=1, expert=1, tensor=1, context=1)
MESHES = {
    "data8": dataclasses.replace(ONE_DEVICE, data=8),
    "fsdp4_tensor2": dataclasses.replace(ONE_DEVICE, fsdp=4, tensor=2),
    "expert8": dataclasses.replace(ONE_DEVICE, expert=8),
    "data2_expert2_tensor2": dataclasses.replace(ONE_DEVICE, data=2, expert=2, tensor=2),
}


def one_device() -> jax.sharding.Mesh:
    return make_mesh(ONE_DEVICE, jax.devices()[:1])


def variables(config: PolicyConfig = CONFIG, seed: int = 0) -> PyTree:
    """Random weights in which nothing is 0 or 1: norm scales about 1, load biases that change the routing."""
    draw = np.random.default_rng(seed)

    def one(path, leaf):
        noise = draw.normal(size=leaf.shape)
        name = path[-1].key
        centre, spread = {"scale_X": (1.0, 0.3), "bias_E": (0.0, 0.15)}.get(name, (0.0, 0.3))
        return (centre + spread * noise).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(one, abstract_variables(config))


def apply(config: PolicyConfig, weights: PyTree, packed: Packed) -> tuple[jax.Array, Aux]:
    """(logits_RTV, Aux)."""
    model = PolicyModel(config)
    hidden, aux = model.apply(weights, packed)
    return model.apply(weights, hidden, method="logits"), aux


@functools.cache
def forward(config: PolicyConfig = CONFIG):
    """`apply`, compiled: (weights, packed) -> (logits_RTV, Aux)."""
    return jit(functools.partial(apply, config))


def rows(sequences: list[list[int]], length: int, pad: int = 0) -> Packed:
    """Each sequence alone in a row of its own, padded on the right; the next token is the target."""
    shape = (len(sequences), length)
    tokens, target = np.full(shape, pad, np.int32), np.full(shape, pad, np.int32)
    segment, position, weight = np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    for r, sequence in enumerate(sequences):
        n = len(sequence)
        tokens[r, :n], segment[r, :n], position[r, :n] = sequence, 1, np.arange(n)
        last = max(n - 1, 0)
        target[r, :last], weight[r, :last] = sequence[1:], 1.0
    return Packed(tokens, segment, np.zeros(shape, np.int32), position, target, weight)


def draw_tokens(seed: int, *lengths: int, vocab: int = CONFIG.vocab_size, low: int = 1) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [draw.integers(low, vocab, size=n).tolist() for n in lengths]


def engine(mesh: jax.sharding.Mesh, *, config: PolicyConfig = CONFIG, stop_ids=(3, 4, 5, 6), pad_id: int = 0) -> Engine:
    """An engine whose programs compile as `jit` here does."""
    with quick():
        return Engine(config, mesh, stop_ids=stop_ids, pad_id=pad_id)
