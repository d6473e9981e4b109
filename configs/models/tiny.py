"""About 1M parameters: learns arithmetic on two CPU cores in minutes.

The rotary base is 100, not 10,000: its sequences have under 200 tokens, and longer waves would tell it nothing.
"""

from ml_collections import ConfigDict

from configs.models.deepseek import PLAIN, deepseek


def get_config() -> ConfigDict:
    return deepseek(
        **PLAIN, vocab_size=768, width=128, layers=3, dense_layers=1, heads=4, q_lora_rank=0, kv_lora_rank=64,
        nope_head_dim=32, rope_head_dim=16, v_head_dim=32, attention_block=0, rope_theta=100.0, dense_ffn=256,
        experts=16, active_experts=2, shared_experts=1, expert_ffn=64, expert_groups=4, kept_groups=2, routed_scale=1.0,
        context=1024, init_scale=0.06, dtype="float32", param_dtype="float32", remat="none",
    )  # fmt: skip
