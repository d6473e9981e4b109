"""The dense families that R1's students come of, Qwen and Llama: grouped-query attention, no experts."""

from typing import Any

from ml_collections import ConfigDict

from configs.models.deepseek import PLAIN

LLAMA3 = PLAIN | dict(rope_scaling="llama3", rope_factor=8.0, rope_original=8192, rope_low=1.0, rope_high=4.0)


def dense(*, layers: int, **sizes: Any) -> ConfigDict:
    """A dense policy; the sizes of one member may overrule what is common to them."""
    shared = dict(
        layers=layers,
        dense_layers=layers,
        attention="gqa",
        q_lora_rank=0,
        kv_lora_rank=0,
        nope_head_dim=0,
        rope_head_dim=0,
        v_head_dim=0,
        head_dim=128,
        attention_bias=False,
        qk_norm=False,
        attention_block=512,
        rope_pairs="halves",
        experts=0,
        active_experts=0,
        shared_experts=0,
        expert_ffn=0,
        score="sigmoid",
        expert_groups=0,
        kept_groups=0,
        group_score="top2",
        norm_topk=False,
        routed_scale=0.0,
        mtp_layers=0,
        init_scale=0.02,
        dtype="bfloat16",
        param_dtype="float32",
        remat="full",
        **PLAIN,
    )
    return ConfigDict(shared | sizes)


def qwen2(**sizes: Any) -> ConfigDict:
    """Qwen2 and 2.5 (arXiv 2412.15115): biases on queries, keys and values."""
    return dense(**(dict(attention_bias=True, rope_theta=1_000_000.0, norm_eps=1e-6, vocab_size=151_936) | sizes))


def qwen3(**sizes: Any) -> ConfigDict:
    """Qwen3 (arXiv 2505.09388): norms of queries and keys, and heads of 128 whatever the width."""
    shared = dict(qk_norm=True, rope_theta=1_000_000.0, norm_eps=1e-6, vocab_size=151_936, context=40_960)
    return dense(**(shared | sizes))


def llama3(**sizes: Any) -> ConfigDict:
    """Llama 3.1 and 3.3 (arXiv 2407.21783): scaled rotary positions."""
    shared = dict(rope_theta=500_000.0, norm_eps=1e-5, vocab_size=128_256, context=131_072, tied=False)
    return dense(**(shared | LLAMA3 | sizes))
