"""Moonlight-16B-A3B (arXiv 2502.16982), of DeepSeek-V3's architecture. Source: its `config.json`."""

from ml_collections import ConfigDict

from configs.models.deepseek import PLAIN, deepseek


def get_config() -> ConfigDict:
    return deepseek(
        vocab_size=163_840,
        width=2048,
        layers=27,
        dense_layers=1,
        heads=16,
        q_lora_rank=0,
        rope_theta=50_000.0,
        dense_ffn=11_264,
        experts=64,
        active_experts=6,
        shared_experts=2,
        expert_ffn=1408,
        expert_groups=1,
        kept_groups=1,
        routed_scale=2.446,
        norm_eps=1e-5,
        context=8192,
        **PLAIN,
    )
