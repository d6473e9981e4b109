"""Qwen3-1.7B. Source: its `config.json`."""

from ml_collections import ConfigDict

from configs.models.dense import qwen3


def get_config() -> ConfigDict:
    return qwen3(
        width=2048,
        layers=28,
        heads=16,
        kv_heads=8,
        dense_ffn=6144,
        tied=True,
    )
