"""The workloads as r1jax's own sections: the policies, and a GRPO and an SFT step, with the settings found fastest."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from bench import workloads as w
from configs import r1_zero_tiny
from configs.models.deepseek import PLAIN, deepseek
from configs.models.dense import qwen2
from r1jax.config import BatchConfig, OptimizerConfig, PolicyConfig, RlStage, RouterConfig, stage_config
from r1jax.data.vocabulary import Vocabulary

SHARED = dict(attention_block=0, context=1152, param_dtype="float32", remat="none")
# Tokens of a packed row and rows of a micro-batch in the GRPO step; rows of one in the SFT step. A row of 319 tokens
# is a prompt, once, with two of its completions.
ROWS = {"dense-S": (319, 2, 8), "moe-S": (319, 2, 8), "dense-M": (319, 2, 8)}
LOGIT_CHUNK = 1536
WORDS = "words.txt"  # the file of a saved vocabulary


def policy(model: str, dtype: str) -> PolicyConfig:
    """The policy's shape; computing in `dtype`, its weights float32."""
    s = w.MODELS[model]
    sizes = dict(
        vocab_size=s["vocab"], width=s["hidden"], layers=s["layers"], heads=s["heads"], rope_theta=s["rope_theta"],
        norm_eps=s["norm_eps"], tied=s["tied"], dense_ffn=s["ffn"], dtype=dtype, **SHARED,
    )  # fmt: skip
    if s["family"] == "qwen2":
        config = qwen2(kv_heads=s["kv_heads"], head_dim=s["head_dim"], **sizes)
    else:
        config = deepseek(
            **PLAIN, dense_layers=s["first_k_dense"], q_lora_rank=s["q_lora_rank"], kv_lora_rank=s["kv_lora_rank"],
            nope_head_dim=s["qk_nope_head_dim"], rope_head_dim=s["qk_rope_head_dim"], v_head_dim=s["v_head_dim"],
            experts=s["experts"], active_experts=s["experts_per_token"], shared_experts=s["shared_experts"],
            expert_ffn=s["moe_ffn"], expert_groups=s["n_group"], kept_groups=s["topk_group"], routed_scale=2.5, **sizes,
        )  # fmt: skip
    return PolicyConfig(**config.to_dict())


def optimizer() -> dict[str, Any]:
    """AdamW as both peers have it: torch's and optax's defaults, at a constant rate, gradients clipped to 1."""
    return dict(
        rule="adamw", lr=w.LEARNING_RATE, warmup_steps=0, schedule="constant", final_scale=1.0, beta1=0.9, beta2=0.999,
        eps=1e-8, weight_decay=w.WEIGHT_DECAY, clip_norm=1.0,
    )  # fmt: skip


def rl_stage(model: str, dtype: str) -> RlStage:
    """The GRPO stage: one update a rollout, with a reference."""
    row_length, micro_rows, _ = ROWS[model]
    tree = ConfigDict(r1_zero_tiny.zero()).to_dict()
    tree["policy"] = vars(policy(model, dtype))
    tree["template"] = "plain"
    tree["rollout"] |= dict(
        prompts=w.PROMPTS, samples=w.GROUP, temperature=w.TEMPERATURE, top_k=0, top_p=1.0, max_tokens=w.NEW_TOKENS
    )
    tree["rewards"] = {"sevens": {"fn": "bench.workloads:sevens", "weight": 1.0, "kwargs": {}}}
    tree["grpo"] |= dict(kl_coef=w.KL_BETA, clip_low=w.CLIP_EPS, clip_high=w.CLIP_EPS)
    tree["batch"] = dict(row_length=row_length, rows=micro_rows, micro_rows=micro_rows, logit_chunk=LOGIT_CHUNK)
    tree["optimizer"] = optimizer()
    stage = stage_config(tree)
    assert isinstance(stage, RlStage), "the stage it is made of is one of RL"
    return stage


def sft_sections(model: str) -> tuple[BatchConfig, RouterConfig, OptimizerConfig]:
    micro_rows = ROWS[model][2]
    batch = BatchConfig(row_length=w.SFT_LEN, rows=w.SFT_BATCH, micro_rows=micro_rows, logit_chunk=LOGIT_CHUNK)
    return batch, RouterConfig(bias_rate=1e-3, balance_coef=0.0), OptimizerConfig(**optimizer())


class WordVocabulary(Vocabulary):
    """The words "t0 t1 ...". Padding is one of them, as masks hide it; the end of a text is none of the policy's."""

    def __init__(self, model: str):
        self.model, size = model, w.MODELS[model]["vocab"]
        self.pieces = [f"t{i} ".encode() for i in range(size)]
        self.pad_id, self.bos_id, self.eos_id = 0, None, size + 1
        self.start_ids, self.end_ids = [], [self.eos_id]
        self.symbols, self.control, self.chat_template = {}, frozenset(), None

    def encode(self, text: str, *, control: bool) -> list[int]:
        """`control` changes nothing: there are no control tokens."""
        return [int(word[1:]) for word in text.split()]

    def save(self, directory: str | os.PathLike) -> None:
        """The model's name, which says how many words there are."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".words.tmp").write_text(self.model, encoding="utf-8")
        os.replace(folder / ".words.tmp", folder / WORDS)

    @classmethod
    def load(cls, directory: str | os.PathLike) -> WordVocabulary:
        return cls((Path(directory) / WORDS).read_text(encoding="utf-8"))
