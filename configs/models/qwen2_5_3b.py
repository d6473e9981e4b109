"""Qwen2.5-3B. Source: its `config.json`."""

from ml_collections import ConfigDict

from configs.models.dense import qwen2


def get_config() -> ConfigDict:
    return qwen2(
        width=2048,
        layers=36,
        heads=16,
        kv_heads=2,
        dense_ffn=11_008,
        tied=True,
        context=32_768,
    )
