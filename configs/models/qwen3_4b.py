"""Qwen3-4B. Source: its `config.json`."""

from ml_collections import ConfigDict

from configs.models.dense import qwen3


def get_config() -> ConfigDict:
    return qwen3(
        width=2560,
        layers=36,
        heads=32,
        kv_heads=8,
        dense_ffn=9728,
        tied=True,
    )
