"""The fixed workloads: three models, the shapes of a GRPO and an SFT step, their data and the reward.

Two models are dense (Qwen2's shape) and one is a mixture of experts with latent attention (DeepSeek-V3's). Weights are
random; a vocabulary is the words "t0 t1 ...", and the token that would end a text is none of the policy's, so that
every completion has its full length. Peers are given the very same numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

MODELS: dict[str, dict[str, Any]] = {
    "dense-S": dict(
        family="qwen2", layers=6, hidden=256, heads=4, kv_heads=2, head_dim=64, ffn=1024, vocab=4096,
        rope_theta=10000.0, norm_eps=1e-6, tied=False,
    ),
    "moe-S": dict(
        family="deepseek_v3", layers=4, first_k_dense=1, hidden=256, heads=4, q_lora_rank=96, kv_lora_rank=64,
        qk_nope_head_dim=32, qk_rope_head_dim=16, v_head_dim=32, ffn=1024, moe_ffn=128, experts=16,
        experts_per_token=4, shared_experts=1, n_group=4, topk_group=2, vocab=4096, rope_theta=10000.0,
        norm_eps=1e-6, tied=False,
    ),
    "dense-M": dict(
        family="qwen2", layers=12, hidden=768, heads=12, kv_heads=2, head_dim=64, ffn=2048, vocab=16384,
        rope_theta=10000.0, norm_eps=1e-6, tied=False,
    ),
}  # fmt: skip

PROMPTS = 8  # of one GRPO step
GROUP = 8  # samples of each
PROMPT_LEN = 64  # tokens of a prompt, exactly
NEW_TOKENS = 128  # tokens of a completion, exactly
SEQS = PROMPTS * GROUP
SEQ_LEN = PROMPT_LEN + NEW_TOKENS

SFT_BATCH = 32
SFT_LEN = 192  # tokens of a row; each counts in the loss

TEMPERATURE = 1.0
KL_BETA = 0.04
CLIP_EPS = 0.2
LEARNING_RATE = 1e-5
WEIGHT_DECAY = 0.0


def prompt_ids(model: str, batch: int = 0) -> np.ndarray:
    """Prompts of one step, int32 [PROMPTS, PROMPT_LEN]; `batch` picks another draw."""
    random = np.random.default_rng(1000 + batch)
    return random.integers(0, MODELS[model]["vocab"], (PROMPTS, PROMPT_LEN), dtype=np.int32)


def prompt_texts(model: str, batch: int = 0) -> list[str]:
    return [words(row) for row in prompt_ids(model, batch)]


def sft_ids(model: str, batch: int = 0) -> np.ndarray:
    """Documents of one SFT step, int32 [SFT_BATCH, SFT_LEN]."""
    random = np.random.default_rng(2000 + batch)
    return random.integers(0, MODELS[model]["vocab"], (SFT_BATCH, SFT_LEN), dtype=np.int32)


def words(ids: Any) -> str:
    return " ".join(f"t{i}" for i in ids)


def reward(text: str) -> float:
    """A cheap reward that differs inside a group: the share of words that end in 7."""
    found = text.split()
    return sum(word.endswith("7") for word in found) / max(1, len(found))


def sevens(completions: list[str], **_: Any) -> list[float]:
    """`reward` as a config names it."""
    return [reward(text) for text in completions]
