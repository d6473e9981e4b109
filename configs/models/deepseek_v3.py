"""DeepSeek-V3, 671B with 37B active; R1 and R1-Zero are of the same shape. Source: its `config.json`."""

from ml_collections import ConfigDict

from configs.models.deepseek import YARN, deepseek


def get_config() -> ConfigDict:
    return deepseek(
        vocab_size=129_280,
        width=7168,
        layers=61,
        dense_layers=3,
        heads=128,
        q_lora_rank=1536,
        dense_ffn=18_432,
        experts=256,
        active_experts=8,
        shared_experts=1,
        expert_ffn=2048,
        expert_groups=8,
        kept_groups=4,
        routed_scale=2.5,
        mtp_layers=1,
        context=163_840,
        init_scale=0.006,
        **YARN,
    )
