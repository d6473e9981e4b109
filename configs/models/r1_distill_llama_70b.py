"""DeepSeek-R1-Distill-Llama-70B, from Llama-3.3-70B-Instruct. Source: its `config.json`."""

from ml_collections import ConfigDict

from configs.models.dense import llama3


def get_config() -> ConfigDict:
    return llama3(
        width=8192,
        layers=80,
        heads=64,
        kv_heads=8,
        dense_ffn=28_672,
        param_dtype="bfloat16",
    )
