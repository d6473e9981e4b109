"""Qwen2.5-1.5B. Source: its `config.json`."""

from ml_collections import ConfigDict

from configs.models.dense import qwen2


def get_config() -> ConfigDict:
    return qwen2(
        width=1536,
        layers=28,
        heads=12,
        kv_heads=2,
        dense_ffn=8960,
        tied=True,
        context=32_768,
    )
