"""Distillation on a laptop: R1-Zero's right answers teach a dense student of Qwen's shape, half its teacher's width; to
compare, the same student under RL alone.

The student's base reads the teacher's corpus, with a tokenizer trained on the same documents: so it has the teacher's
tokens and can learn its distribution, too. --config.stages.distilled.teacher=None learns from the samples alone.

command:   make quickstart
           python -m r1jax.main --config=configs/distill_tiny.py --workdir=runs/distill
           (another teacher: --config=configs/distill_tiny.py:DIR)
hardware:  2 CPU cores
deviations from the paper: its students learn from samples alone (800k, two epochs, cosine to a tenth, batch 64)
"""

from ml_collections import ConfigDict

from configs import r1_zero_tiny, rejection_tiny
from configs.models.dense import qwen2


def policy() -> ConfigDict:
    """About 160k parameters."""
    return qwen2(
        vocab_size=768, width=64, layers=3, dense_ffn=160, heads=4, kv_heads=2, head_dim=16, tied=True, context=1024,
        rope_theta=100.0, init_scale=0.06, attention_block=0, dtype="float32", remat="none",
    )  # fmt: skip


def student() -> ConfigDict:
    """The student's base: it has read what its teacher's had."""
    config = r1_zero_tiny.base()
    config.policy = policy()
    config.router.update(bias_rate=0.0, balance_coef=0.0)
    return config


def samples(teacher: str) -> ConfigDict:
    """What the teacher writes: right, in form, and once."""
    config = rejection_tiny.get_config().unlock()
    config.init_from = teacher
    config.join = dict(sources={}, ratio=0.0)
    return config


def distilled(teacher: str) -> ConfigDict:
    config = student()
    config.update(steps=300, init_from="student")
    config.data.sources = {"samples": {"name": "samples:samples", "weight": 1.0, "kwargs": {}}}
    config.optimizer.update(rule="adamw", lr=1e-3, warmup_steps=10, beta1=0.9, weight_decay=0.0)
    config.teacher = dict(folder=teacher, alpha=0.5)
    return config


def alone() -> ConfigDict:
    """The same student, by its own trials."""
    config = r1_zero_tiny.zero()
    config.update(init_from="student")
    config.policy = policy()
    config.router.update(bias_rate=0.0)
    return config


def get_config(teacher: str = "runs/quickstart/zero") -> ConfigDict:
    stages = dict(student=student(), samples=samples(teacher), distilled=distilled(teacher), alone=alone())
    return ConfigDict(dict(stage="pipeline", seed=0, order=tuple(stages), stages=stages)).lock()
