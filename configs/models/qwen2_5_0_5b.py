"""Qwen2.5-0.5B. Source: its `config.json`."""

from ml_collections import ConfigDict

from configs.models.dense import qwen2


def get_config() -> ConfigDict:
    return qwen2(
        width=896,
        layers=24,
        heads=14,
        kv_heads=2,
        head_dim=64,
        dense_ffn=4864,
        tied=True,
        context=32_768,
    )
