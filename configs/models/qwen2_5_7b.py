"""Qwen2.5-7B. Source: its `config.json`."""

from ml_collections import ConfigDict

from configs.models.dense import qwen2


def get_config() -> ConfigDict:
    return qwen2(
        vocab_size=152_064,
        width=3584,
        layers=28,
        heads=28,
        kv_heads=4,
        dense_ffn=18_944,
        tied=False,
        context=131_072,
    )
