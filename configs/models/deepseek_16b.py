"""DeepSeek's 16B, 2.4B active: V2-Lite. Source: `inference/configs/config_16B.json` of DeepSeek-V3's repository."""

from ml_collections import ConfigDict

from configs.models.deepseek import YARN, deepseek


def get_config() -> ConfigDict:
    return deepseek(
        vocab_size=102_400,
        width=2048,
        layers=27,
        dense_layers=1,
        heads=16,
        q_lora_rank=0,
        dense_ffn=10_944,
        experts=64,
        active_experts=6,
        shared_experts=2,
        expert_ffn=1408,
        score="softmax",
        expert_groups=1,
        kept_groups=1,
        group_score="max",
        norm_topk=False,
        routed_scale=1.0,
        context=163_840,
        **(YARN | dict(rope_mscale=0.707, rope_mscale_all=0.707)),
    )
