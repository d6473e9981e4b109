"""DeepSeek-R1-Distill-Llama-8B, from Llama-3.1-8B. Source: its `config.json`."""

from ml_collections import ConfigDict

from configs.models.dense import llama3


def get_config() -> ConfigDict:
    return llama3(
        width=4096,
        layers=32,
        heads=32,
        kv_heads=8,
        dense_ffn=14_336,
    )
