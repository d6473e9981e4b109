"""Qwen3-8B. Source: its `config.json`."""

from ml_collections import ConfigDict

from configs.models.dense import qwen3


def get_config() -> ConfigDict:
    return qwen3(
        width=4096,
        layers=36,
        heads=32,
        kv_heads=8,
        dense_ffn=12_288,
        tied=False,
    )
