"""DeepSeek-R1-Distill-Qwen-14B, from Qwen2.5-14B. Source: its `config.json`."""

from ml_collections import ConfigDict

from configs.models.dense import qwen2


def get_config() -> ConfigDict:
    return qwen2(
        vocab_size=152_064,
        width=5120,
        layers=48,
        heads=40,
        kv_heads=8,
        dense_ffn=13_824,
        norm_eps=1e-5,
        tied=False,
        context=131_072,
        param_dtype="bfloat16",
    )
