"""About 1M parameters: learns arithmetic on two CPU cores in minutes.

The rotary base is 100, not 10,000: its sequences have under 200 tokens, and longer waves would tell it nothing.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        dict(
            vocab_size=768,
            width=128,
            layers=3,
            dense_layers=1,
            attention="mla",
            heads=4,
            q_lora_rank=0,
            kv_lora_rank=64,
            nope_head_dim=32,
            rope_head_dim=16,
            v_head_dim=32,
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
            dense_ffn=256,
            experts=16,
            active_experts=2,
            shared_experts=1,
            expert_ffn=64,
            score="sigmoid",
            expert_groups=4,
            kept_groups=2,
            group_score="top2",
            norm_topk=True,
            routed_scale=1.0,
            mtp_layers=0,
            tied=False,
            norm_eps=1e-6,
            context=1024,
            init_scale=0.06,
            dtype="float32",
            param_dtype="float32",
            remat="none",
        )
    )
