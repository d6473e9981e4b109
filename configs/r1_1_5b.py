"""R1's two kinds of update for Qwen2.5-1.5B on eight v5e chips: supervised fine-tuning on long thoughts, then GRPO.

command:   python -m r1jax.main --config=configs/r1_1_5b.py --workdir=runs/r1_1_5b
           (of several slices so many: configs/r1_1_5b.py:2)
needs:     runs/imported/qwen2_5_1_5b, by r1jax.convert; data/thoughts.jsonl, questions with completions
hardware:  v5e:2x4; compiled for it (docs/aot.md), and never run
"""

from ml_collections import ConfigDict

from configs import meshes, r1
from configs.models import qwen2_5_1_5b

BASE = "runs/imported/qwen2_5_1_5b"
LENGTH = 8192  # of a row: a prompt and a completion
PROMPT = 1024


def get_config(slices: str = "1") -> ConfigDict:
    sft = r1.sft(BASE, "", 10_000, rows=64 * int(slices), lr=1e-5)
    sft.data.sources = {"thoughts": {"name": "jsonl:data/thoughts.jsonl", "weight": 1.0, "kwargs": {}}}
    rl = r1.rl("sft", "r1", 1600, {"accuracy": r1.rules("last_line")["accuracy"]})
    rl.data.sources = {"gsm8k": {"name": "gsm8k", "weight": 1.0, "kwargs": {}}}
    rl.rollout.update(prompts=16 * int(slices), samples=16, max_tokens=LENGTH - PROMPT)
    rl.rollout.mesh = meshes.decoding(tensor=1, slices=int(slices))  # a chip has all parameters of a dense policy
    rl.grpo.update(minibatches=2, clip_low=0.2, clip_high=0.28, importance="token", reference_refresh=0)
    for stage in (sft, rl):
        stage.policy = qwen2_5_1_5b.get_config()
        stage.batch.update(row_length=LENGTH, rows=8 * int(slices), micro_rows=8 * int(slices), logit_chunk=8192)
        stage.optimizer.update(lr=1e-6)
        stage.optimizer.precision.master = stage.policy.param_dtype == "bfloat16"
        stage.router.update(bias_rate=0.0, balance_coef=0.0)
        stage.mesh = meshes.tpu_slice(slices=int(slices))
    sft.mtp_coef = 0.0
    return ConfigDict(dict(stage="pipeline", seed=0, order=("sft", "rl"), stages=dict(sft=sft, rl=rl))).lock()
