"""A Hugging Face `config.json` as a `PolicyConfig`, and back.

Families: DeepSeek-V3 and R1 (`deepseek_v3`), V2 and V2-Lite (`deepseek_v2`), `qwen2`, `qwen3`, `llama`. What the policy
cannot compute is refused by name; nothing is dropped in silence. Rotary settings are read in their old spelling
(`rope_theta`, `rope_scaling`) and their new one (`rope_parameters`), and written in the old one, which transformers
and vLLM of any version read.
"""

from __future__ import annotations

from typing import Any

from r1jax.config import PolicyConfig

LATENT = ("deepseek_v3", "deepseek_v2")
GROUPED = ("qwen2", "qwen3", "llama")
ARCHITECTURES = {
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
}
# Keys whose other values would change the numbers, and the values that leave them as the policy computes them.
_NEUTRAL: dict[str, tuple] = {
    "hidden_act": ("silu",),
    "mlp_bias": (False, None),
    "use_sliding_window": (False, None),
    "partial_rotary_factor": (1.0, None),
    "moe_layer_freq": (1, None),
    "pretraining_tp": (1, None),
}


def policy_config(hf: dict[str, Any], *, dtype: str, param_dtype: str) -> PolicyConfig:
    """The policy that a `config.json` describes.

    Args:
      hf: the file's object.
      dtype: compute, of the policy.
      param_dtype: of its parameters.

    Raises:
      ValueError: a key is missing, or asks for what the policy does not have; names it.
    """
    family = hf.get("model_type")
    if family not in ARCHITECTURES:
        raise ValueError(f"config.json: model_type is {family!r}; expected one of {', '.join(ARCHITECTURES)}")
    for key, neutral in _NEUTRAL.items():
        if hf.get(key, neutral[0]) not in neutral:
            raise ValueError(f"config.json: {key} is {hf[key]!r}, which r1jax does not compute; expected {neutral[0]}")
    if set(hf.get("layer_types") or ()) - {"full_attention"}:
        raise ValueError("config.json: layer_types names others than full_attention, which r1jax does not compute")
    if family != "qwen2" and hf.get("attention_bias"):  # it would put one on the output projection too
        raise ValueError("config.json: attention_bias is true; r1jax has biases as Qwen2 alone has them")
    sizes = _latent(hf, family) if family in LATENT else _grouped(hf, family)
    return PolicyConfig(
        vocab_size=_need(hf, "vocab_size"),
        width=_need(hf, "hidden_size"),
        layers=_need(hf, "num_hidden_layers"),
        heads=_need(hf, "num_attention_heads"),
        dense_ffn=_need(hf, "intermediate_size"),
        tied=bool(hf.get("tie_word_embeddings", False)),
        norm_eps=float(_need(hf, "rms_norm_eps")),
        context=_need(hf, "max_position_embeddings"),
        init_scale=float(hf.get("initializer_range", 0.02)),  # of fresh weights; imported ones do not depend on it
        attention_block=0,
        dtype=dtype,
        param_dtype=param_dtype,
        remat="none",
        **sizes,
        **_rope(hf),
    )


def _need(hf: dict[str, Any], key: str) -> Any:
    if hf.get(key) is None:
        raise ValueError(f"config.json lacks {key!r}; expected the whole config of a checkpoint")
    return hf[key]


def _grouped(hf: dict[str, Any], family: str) -> dict[str, Any]:
    heads = _need(hf, "num_attention_heads")
    return dict(
        attention="gqa",
        kv_heads=hf.get("num_key_value_heads") or heads,
        head_dim=hf.get("head_dim") or _need(hf, "hidden_size") // heads,
        attention_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        q_lora_rank=0,
        kv_lora_rank=0,
        nope_head_dim=0,
        rope_head_dim=0,
        v_head_dim=0,
        rope_pairs="halves",
        dense_layers=_need(hf, "num_hidden_layers"),
        mtp_layers=0,
        **_NO_EXPERTS,
    )


_NO_EXPERTS: dict[str, Any] = dict(
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
)


def _latent(hf: dict[str, Any], family: str) -> dict[str, Any]:
    layers = _need(hf, "num_hidden_layers")
    dense_layers = min(_need(hf, "first_k_dense_replace"), layers)
    mixture = dense_layers < layers
    interleaved = hf.get("rope_interleave", True)
    mtp_layers = hf.get("num_nextn_predict_layers", hf.get("num_mtp_layers")) or 0
    if mtp_layers > 1:
        raise ValueError(f"config.json: num_nextn_predict_layers is {mtp_layers}; r1jax has 0 or 1")
    return dict(
        attention="mla",
        kv_heads=0,
        head_dim=0,
        attention_bias=False,
        qk_norm=False,
        q_lora_rank=hf.get("q_lora_rank") or 0,
        kv_lora_rank=_need(hf, "kv_lora_rank"),
        nope_head_dim=_need(hf, "qk_nope_head_dim"),
        rope_head_dim=_need(hf, "qk_rope_head_dim"),
        v_head_dim=_need(hf, "v_head_dim"),
        rope_pairs="interleaved" if interleaved else "halves",
        dense_layers=dense_layers,
        mtp_layers=mtp_layers if mixture and family == "deepseek_v3" else 0,
        **(_experts(hf, family) if mixture else _NO_EXPERTS),
    )


def _experts(hf: dict[str, Any], family: str) -> dict[str, Any]:
    """Routing. V3: biased sigmoid scores, groups by their two best. V2: softmax scores, groups by their best."""
    v3 = family == "deepseek_v3"
    method = hf.get("topk_method", "noaux_tc" if v3 else "greedy")
    scoring = hf.get("scoring_func", "sigmoid" if v3 else "softmax")
    methods = ("noaux_tc",) if v3 else ("greedy", "group_limited_greedy")
    if scoring != ("sigmoid" if v3 else "softmax") or method not in methods:
        raise ValueError(f"config.json: scoring_func {scoring!r} with topk_method {method!r} is not {family}'s")
    normalised = hf.get("norm_topk_prob", v3)
    if not v3 and normalised:  # DeepSeek's V2 code then leaves the scale out; transformers ignores the key
        raise ValueError("config.json: norm_topk_prob is true in a deepseek_v2; no published one has it, nor has r1jax")
    grouped = method != "greedy"
    return dict(
        experts=_need(hf, "n_routed_experts"),
        active_experts=_need(hf, "num_experts_per_tok"),
        shared_experts=hf.get("n_shared_experts") or 0,
        expert_ffn=_need(hf, "moe_intermediate_size"),
        score=scoring,
        expert_groups=(hf.get("n_group") or 1) if grouped else 1,
        kept_groups=(hf.get("topk_group") or 1) if grouped else 1,
        group_score="top2" if v3 else "max",
        norm_topk=bool(normalised),
        routed_scale=float(hf.get("routed_scaling_factor", 1.0)),
    )


def _rope(hf: dict[str, Any]) -> dict[str, Any]:
    """Rotary settings, in either spelling."""
    rope = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    out: dict[str, Any] = dict(
        rope_theta=float(rope.get("rope_theta", hf.get("rope_theta") or 10000.0)),
        rope_scaling="none", rope_factor=1.0, rope_original=0, rope_beta_fast=0.0, rope_beta_slow=0.0,
        rope_mscale=0.0, rope_mscale_all=0.0, rope_low=0.0, rope_high=0.0,
    )  # fmt: skip
    if kind == "default":
        return out
    if kind not in ("yarn", "llama3"):
        raise ValueError(f"config.json: the rotary type is {kind!r}; expected default, yarn or llama3")
    for key, neutral in (("attention_factor", None), ("truncate", True), ("partial_rotary_factor", 1.0)):
        if rope.get(key, neutral) not in (neutral, None):
            raise ValueError(f"config.json: {key} is {rope[key]!r} in the rotary settings; r1jax has no such choice")
    original = rope.get("original_max_position_embeddings") or _need(hf, "max_position_embeddings")
    out.update(rope_scaling=kind, rope_factor=float(_need(rope, "factor")), rope_original=int(original))
    if kind == "llama3":
        out.update(rope_low=float(_need(rope, "low_freq_factor")), rope_high=float(_need(rope, "high_freq_factor")))
        return out
    mscale, mscale_all = rope.get("mscale"), rope.get("mscale_all_dim") or 0.0
    if mscale_all and not mscale:
        raise ValueError("config.json: mscale_all_dim without mscale is read in two ways; give both, or neither")
    out.update(
        rope_beta_fast=float(rope.get("beta_fast") or 32),
        rope_beta_slow=float(rope.get("beta_slow") or 1),
        rope_mscale=float(mscale) if mscale and mscale_all else 1.0,  # without mscale_all_dim, mscale counts as 1
        rope_mscale_all=float(mscale_all),
    )
    return out


def hf_config(policy: PolicyConfig) -> dict[str, Any]:
    """The `config.json` of a policy, without the tokenizer's ids.

    Raises:
      ValueError: no family that transformers opens computes such a policy; names the key.
    """
    family = _family(policy)
    out: dict[str, Any] = dict(
        architectures=[ARCHITECTURES[family]],
        model_type=family,
        vocab_size=policy.vocab_size,
        hidden_size=policy.width,
        intermediate_size=policy.dense_ffn,
        num_hidden_layers=policy.layers,
        num_attention_heads=policy.heads,
        num_key_value_heads=policy.kv_heads or policy.heads,
        hidden_act="silu",
        max_position_embeddings=policy.context,
        initializer_range=policy.init_scale,
        rms_norm_eps=policy.norm_eps,
        tie_word_embeddings=policy.tied,
        attention_dropout=0.0,
        use_cache=True,
        rope_theta=policy.rope_theta,
        rope_scaling=_hf_rope(policy),
        torch_dtype=policy.param_dtype,
    )
    if family != "qwen2":
        out |= dict(attention_bias=False)
    if family in GROUPED:
        return out | dict(head_dim=policy.head_dim)
    out |= dict(
        q_lora_rank=policy.q_lora_rank or None,
        kv_lora_rank=policy.kv_lora_rank,
        qk_nope_head_dim=policy.nope_head_dim,
        qk_rope_head_dim=policy.rope_head_dim,
        v_head_dim=policy.v_head_dim,
        first_k_dense_replace=policy.dense_layers,
        moe_layer_freq=1,
    )
    if policy.experts:
        out |= dict(
            n_routed_experts=policy.experts,
            num_experts_per_tok=policy.active_experts,
            n_shared_experts=policy.shared_experts,
            moe_intermediate_size=policy.expert_ffn,
            routed_scaling_factor=policy.routed_scale,
            n_group=policy.expert_groups,
            topk_group=policy.kept_groups,
            norm_topk_prob=policy.norm_topk,
        )
    if family == "deepseek_v2":
        return out | dict(scoring_func="softmax", topk_method="group_limited_greedy")
    return out | dict(
        scoring_func="sigmoid",
        topk_method="noaux_tc",
        rope_interleave=policy.rope_pairs == "interleaved",
        num_nextn_predict_layers=policy.mtp_layers,
    )


def _family(policy: PolicyConfig) -> str:
    """The family that computes what the policy does."""
    if policy.attention == "gqa":
        wrong = {
            "attention_bias": policy.attention_bias and policy.qk_norm,
            "rope_pairs": policy.rope_pairs != "halves",
            "experts": policy.experts > 0,
        }
        family = "qwen2" if policy.attention_bias else "qwen3" if policy.qk_norm else "llama"
    else:
        softmax, grouped = policy.score == "softmax", policy.expert_groups > 1
        wrong = {
            "norm_topk": softmax and policy.norm_topk,
            "rope_pairs": softmax and policy.rope_pairs != "interleaved",
            "group_score": grouped and policy.group_score != ("max" if softmax else "top2"),
            "mtp_layers": softmax and policy.mtp_layers > 0,
        }
        family = "deepseek_v2" if softmax else "deepseek_v3"
    for field, is_wrong in wrong.items():
        if is_wrong:
            raise ValueError(
                f"policy.{field} is {getattr(policy, field)!r}, which no {family} has; such a policy cannot be exported"
            )
    return family


def _hf_rope(policy: PolicyConfig) -> dict[str, Any] | None:
    if policy.rope_scaling == "none":
        return None
    out: dict[str, Any] = dict(
        rope_type=policy.rope_scaling,
        type=policy.rope_scaling,
        factor=policy.rope_factor,
        original_max_position_embeddings=policy.rope_original,
    )
    if policy.rope_scaling == "llama3":
        return out | dict(low_freq_factor=policy.rope_low, high_freq_factor=policy.rope_high)
    out |= dict(beta_fast=policy.rope_beta_fast, beta_slow=policy.rope_beta_slow)
    if policy.rope_mscale_all:
        return out | dict(mscale=policy.rope_mscale, mscale_all_dim=policy.rope_mscale_all)
    if policy.rope_mscale != 1.0:
        raise ValueError(
            f"policy.rope_mscale is {policy.rope_mscale} with rope_mscale_all 0; the format then takes it as 1: "
            "such a policy cannot be exported"
        )
    return out
