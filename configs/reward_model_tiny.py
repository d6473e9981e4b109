"""Reward models in minutes: a base that writes replies good and bad, a model of what is helpful, one of what is safe,
and RL that raises both.

command:   python -m r1jax.main --config=configs/reward_model_tiny.py --workdir=runs/reward_model
hardware:  2 CPU cores
time:      6 min 22 s with set-up, measured 2026-11-21 beside other work (of its own, 4 min 38 s of processor time):
           base 111 s, helpful 101 s, harmless 49 s, RL 79 s
expected:  seed 0, 1,000 held-out examples each: helpful ranks 100% of pairs, harmless tells 98.1% of responses; in 60
           steps of RL reward/helpful/mean goes from -0.7 to 3.7 (means of the first and the last five steps),
           reward/harmless/mean from 0.74 to 0.95
"""

from ml_collections import ConfigDict

from configs import r1_zero_tiny
from configs.models import tiny


def policy() -> ConfigDict:
    config = tiny.get_config()
    config.update(vocab_size=768, width=64, layers=3, heads=4, kv_lora_rank=32, nope_head_dim=16, rope_head_dim=16,
                  v_head_dim=16, dense_ffn=128, experts=8, expert_ffn=32, context=256)  # fmt: skip
    return config


def optimizer(lr: float, warmup_steps: int) -> dict:
    return dict(
        rule="muon", lr=lr, warmup_steps=warmup_steps, schedule="cosine", final_scale=0.1, beta1=0.95, beta2=0.99,
        eps=1e-8, weight_decay=0.0, clip_norm=1.0,
    )  # fmt: skip


def reward_model(objective: str, source: str, steps: int, lr: float) -> ConfigDict:
    return ConfigDict(
        dict(
            stage="reward_model",
            seed=0,
            steps=steps,
            init_from="base",
            template="plain",
            objective=objective,
            policy=policy(),
            sources={"replies": {"name": source, "weight": 1.0, "kwargs": {}}},
            batch=dict(examples=64, row_length=256, rows=4, micro_rows=4),
            optimizer=optimizer(lr=lr, warmup_steps=10),
            router=dict(bias_rate=1e-3, balance_coef=1e-3),
            evaluation=dict(limit=1000, every=25, every_limit=200),
            checkpoint=dict(every=50, keep=1),
            mesh=dict(data=-1, fsdp=1, expert=1, tensor=1, context=1),
        )
    )


def base() -> ConfigDict:
    config = r1_zero_tiny.base()
    config.update(steps=300, template="plain", policy=policy())
    config.data.sources = {"replies": {"name": "replies", "weight": 1.0, "kwargs": {}}}
    config.batch.update(row_length=256, rows=8, micro_rows=8)
    config.tokenizer.update(train_documents=5000, max_piece_length=16, across_words=False)
    config.evaluation.tasks = {}
    config.checkpoint.update(every=100)
    return config


def aligned() -> ConfigDict:
    """RL on both models' scores: what is said must help, what is thought and said must not hurt."""
    config = r1_zero_tiny.zero()
    config.update(steps=60, template="plain", policy=policy())
    config.data.sources = {"replies": {"name": "replies", "weight": 1.0, "kwargs": {}}}
    config.rollout.update(prompts=16, samples=8, max_tokens=64)
    config.batch.update(row_length=256, rows=8, micro_rows=8)
    config.rewards = {
        "helpful": {"fn": "r1jax.rewards.preference:helpful", "weight": 0.2, "kwargs": {"checkpoint": "helpful"}},
        "harmless": {"fn": "r1jax.rewards.preference:harmless", "weight": 1.0, "kwargs": {"checkpoint": "harmless"}},
        "format": {"fn": "r1jax.rewards.format:think_answer", "weight": 0.5, "kwargs": {}},
    }
    config.evaluation.tasks = {}
    config.checkpoint.update(every=20)
    return config


def get_config() -> ConfigDict:
    stages = dict(
        base=base(),
        helpful=reward_model("bradley_terry", "replies:helpful", steps=100, lr=2e-3),
        harmless=reward_model("pointwise", "replies:harmless", steps=80, lr=2e-3),
        aligned=aligned(),
    )
    return ConfigDict(dict(stage="pipeline", seed=0, order=tuple(stages), stages=stages)).lock()
