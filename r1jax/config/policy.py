"""The shape of a policy."""

from __future__ import annotations

import dataclasses

from r1jax.config.checks import at_least, one_of


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """Shape of a policy: DeepSeek-V3's, or a dense Qwen's or Llama's. Letters are those of `types.py`.

    What a choice leaves unused is 0, "none" or False: under `attention` "gqa" the sizes of "mla", and the reverse;
    in a dense policy (`dense_layers` = `layers`) what describes experts.
    """

    vocab_size: int  # V
    width: int  # D
    layers: int  # N
    dense_layers: int  # the first layers, whose feed-forward is dense
    attention: str  # mla | gqa
    heads: int  # H
    q_lora_rank: int  # mla; 0: queries are projected straight from the width
    kv_lora_rank: int  # mla
    nope_head_dim: int  # mla
    rope_head_dim: int  # mla
    v_head_dim: int  # mla
    kv_heads: int  # K, gqa
    head_dim: int  # C, gqa
    attention_bias: bool  # gqa: biases on queries, keys and values (Qwen2)
    qk_norm: bool  # gqa: RMSNorm of each head's query and key, before they are rotated (Qwen3)
    attention_block: int  # tokens of a block of blockwise attention; 0: whole [T, T] scores
    rope_theta: float
    rope_pairs: str  # interleaved (DeepSeek) | halves (Qwen, Llama)
    rope_scaling: str  # none | yarn | llama3
    rope_factor: float  # yarn, llama3: how many times longer than rope_original
    rope_original: int  # yarn, llama3: tokens of a sequence before scaling
    rope_beta_fast: float  # yarn: turns over rope_original from which a wave is kept
    rope_beta_slow: float  # yarn: turns up to which it is stretched by rope_factor
    rope_mscale: float  # yarn: growth of the rotated part with log(rope_factor)
    rope_mscale_all: float  # yarn: growth of the scores' scale with it, squared
    rope_low: float  # llama3: turns over rope_original up to which a wave is stretched
    rope_high: float  # llama3: turns from which it is kept
    dense_ffn: int  # width of a dense feed-forward
    experts: int  # E, routed
    active_experts: int  # A
    shared_experts: int
    expert_ffn: int  # F
    score: str  # sigmoid (V3) | softmax (V2)
    expert_groups: int
    kept_groups: int
    group_score: str  # top2 (V3: sum of a group's two best) | max (V2)
    norm_topk: bool  # combine weights sum to 1 before routed_scale
    routed_scale: float
    mtp_layers: int  # multi-token prediction: 0 | 1
    tied: bool  # the head is the embedding, transposed
    norm_eps: float
    context: int  # longest sequence, tokens
    init_scale: float  # standard deviation of the initial weights
    dtype: str  # compute: float32 | bfloat16
    param_dtype: str  # float32 | bfloat16
    remat: str  # none | full | dots | latents | attention: what is kept for the backward pass, see models/policy.py

    def __post_init__(self):
        for name in ("dtype", "param_dtype"):
            one_of(f"policy.{name}", getattr(self, name), ("float32", "bfloat16"))
        one_of("policy.remat", self.remat, ("none", "full", "dots", "latents", "attention"))
        one_of("policy.attention", self.attention, ("mla", "gqa"))
        one_of("policy.rope_pairs", self.rope_pairs, ("interleaved", "halves"))
        one_of("policy.rope_scaling", self.rope_scaling, ("none", "yarn", "llama3"))
        one_of("policy.mtp_layers", self.mtp_layers, (0, 1))
        at_least(1, "policy", self, "vocab_size", "width", "layers", "heads", "context")
        at_least(0, "policy", self, "attention_block")
        if not 0 <= self.dense_layers <= self.layers:
            raise ValueError(f"policy.dense_layers is {self.dense_layers}; expected 0..layers ({self.layers})")
        _check_attention(self)
        _check_rope_scaling(self)
        if self.dense_layers < self.layers:
            _check_mixture(self)
        elif self.mtp_layers:
            raise ValueError("policy.mtp_layers is 1 in a dense policy; its layer is a mixture: set it to 0")


def _check_attention(policy: PolicyConfig) -> None:
    latent = ("kv_lora_rank", "nope_head_dim", "rope_head_dim", "v_head_dim", "q_lora_rank")
    grouped = ("kv_heads", "head_dim", "attention_bias", "qk_norm")
    used, unused = (latent, grouped) if policy.attention == "mla" else (grouped, latent)
    at_least(1, "policy", policy, *used[:2])
    for field in unused:
        if getattr(policy, field):
            raise ValueError(
                f"policy.{field} is {getattr(policy, field)!r}, which policy.attention {policy.attention!r} has no "
                f"use for; set it to {type(getattr(policy, field))()!r}"
            )
    if policy.attention == "mla":
        at_least(1, "policy", policy, "rope_head_dim", "v_head_dim")
        at_least(0, "policy", policy, "q_lora_rank")
    elif policy.heads % policy.kv_heads:
        raise ValueError(f"policy.kv_heads is {policy.kv_heads}; expected a divisor of policy.heads ({policy.heads})")
    rotated = "rope_head_dim" if policy.attention == "mla" else "head_dim"
    if getattr(policy, rotated) % 2:
        raise ValueError(f"policy.{rotated} is {getattr(policy, rotated)}; it must be even (rotary pairs)")


def _check_rope_scaling(policy: PolicyConfig) -> None:
    if policy.rope_scaling == "none":
        return
    at_least(1, "policy", policy, "rope_factor", "rope_original")
    low, high = ("rope_beta_slow", "rope_beta_fast") if policy.rope_scaling == "yarn" else ("rope_low", "rope_high")
    if not 0 < getattr(policy, low) < getattr(policy, high):
        raise ValueError(
            f"policy.{low} is {getattr(policy, low)} and policy.{high} {getattr(policy, high)}; expected "
            f"0 < {low} < {high} under policy.rope_scaling {policy.rope_scaling!r}"
        )
    if policy.rope_scaling == "yarn":
        at_least(0, "policy", policy, "rope_mscale", "rope_mscale_all")


def _check_mixture(policy: PolicyConfig) -> None:
    one_of("policy.score", policy.score, ("sigmoid", "softmax"))
    one_of("policy.group_score", policy.group_score, ("top2", "max"))
    at_least(1, "policy", policy, "experts", "expert_ffn", "expert_groups")
    at_least(0, "policy", policy, "shared_experts")
    if policy.experts % policy.expert_groups or not 1 <= policy.kept_groups <= policy.expert_groups:
        raise ValueError(
            f"policy.expert_groups is {policy.expert_groups} and kept_groups {policy.kept_groups}; "
            f"groups must divide experts ({policy.experts}) and kept_groups lie in 1..expert_groups"
        )
    reachable = policy.experts // policy.expert_groups * policy.kept_groups
    if not 1 <= policy.active_experts <= reachable:
        raise ValueError(
            f"policy.active_experts is {policy.active_experts}; expected 1..{reachable}, the experts of the kept groups"
        )
