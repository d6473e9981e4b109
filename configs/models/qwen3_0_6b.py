"""Qwen3-0.6B. Source: its `config.json`."""

from ml_collections import ConfigDict

from configs.models.dense import qwen3


def get_config() -> ConfigDict:
    return qwen3(
        width=1024,
        layers=28,
        heads=16,
        kv_heads=8,
        dense_ffn=3072,
        tied=True,
    )
