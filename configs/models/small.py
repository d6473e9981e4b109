"""About 100M parameters of DeepSeek-V3's kind, for one GPU."""

from ml_collections import ConfigDict

from configs.models.deepseek import PLAIN, deepseek


def get_config() -> ConfigDict:
    return deepseek(
        vocab_size=32_768,
        width=512,
        layers=9,
        dense_layers=1,
        heads=8,
        q_lora_rank=0,
        kv_lora_rank=128,
        nope_head_dim=64,
        rope_head_dim=32,
        v_head_dim=64,
        dense_ffn=1536,
        experts=16,
        active_experts=4,
        shared_experts=1,
        expert_ffn=256,
        expert_groups=4,
        kept_groups=2,
        routed_scale=1.0,
        context=4096,
        param_dtype="float32",
        remat="dots",
        **PLAIN,
    )
