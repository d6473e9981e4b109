"""DeepSeek-R1-Distill-Qwen-1.5B, from Qwen2.5-Math-1.5B. Source: its `config.json`."""

from ml_collections import ConfigDict

from configs.models.dense import qwen2


def get_config() -> ConfigDict:
    return qwen2(
        width=1536,
        layers=28,
        heads=12,
        kv_heads=2,
        dense_ffn=8960,
        rope_theta=10_000.0,
        tied=False,
        context=131_072,
    )
