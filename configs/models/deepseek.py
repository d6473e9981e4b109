"""The DeepSeek family: latent attention and a mixture of experts. What its members have in common; sizes are theirs.

YaRN is DeepSeek-V3's (arXiv 2412.19437, section 4.3); a member without it takes `PLAIN`.
"""

from typing import Any

from ml_collections import ConfigDict

PLAIN = dict(
    rope_scaling="none",
    rope_factor=1.0,
    rope_original=0,
    rope_beta_fast=0.0,
    rope_beta_slow=0.0,
    rope_mscale=0.0,
    rope_mscale_all=0.0,
    rope_low=0.0,
    rope_high=0.0,
)
YARN = PLAIN | dict(
    rope_scaling="yarn",
    rope_factor=40.0,
    rope_original=4096,
    rope_beta_fast=32.0,
    rope_beta_slow=1.0,
    rope_mscale=1.0,
    rope_mscale_all=1.0,
)


def deepseek(**sizes: Any) -> ConfigDict:
    """DeepSeek-V3's choices, and the sizes of one member, which may overrule them."""
    shared = dict(
        attention="mla",
        kv_lora_rank=512,
        nope_head_dim=128,
        rope_head_dim=64,
        v_head_dim=128,
        kv_heads=0,
        head_dim=0,
        attention_bias=False,
        qk_norm=False,
        attention_block=512,
        rope_theta=10_000.0,
        rope_pairs="interleaved",
        score="sigmoid",
        group_score="top2",
        norm_topk=True,
        mtp_layers=0,
        tied=False,
        norm_eps=1e-6,
        init_scale=0.02,
        dtype="bfloat16",
        param_dtype="bfloat16",
        remat="full",
    )
    return ConfigDict(shared | sizes)
