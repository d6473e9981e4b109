"""The whole R1-Zero pipeline at its smallest: every part runs, nothing is learnt that one could boast of.

command:   make smoke
           (python -m r1jax.main --config=configs/smoke.py --workdir=runs/smoke)
"""

from ml_collections import ConfigDict

from configs import r1_zero_tiny

POLICY = dict(
    vocab_size=768, width=32, layers=2, dense_layers=1, heads=2, q_lora_rank=0, kv_lora_rank=16, nope_head_dim=8,
    rope_head_dim=8, v_head_dim=16, dense_ffn=64, experts=4, active_experts=2, shared_experts=1, expert_ffn=32,
    expert_groups=2, kept_groups=1, context=320,
)  # fmt: skip
# Batches of the shape of rollouts: one compiled program samples for all.
EVALUATION = dict(samples=4, limit=8, every=2, every_samples=4, every_limit=8, max_tokens=32, batch=4)


def digits(completions: list[str], **_) -> list[float]:
    """The share of digits: a reward that an untrained policy earns too, so that there is a gradient."""
    return [sum(map(str.isdigit, text)) / max(len(text), 1) for text in completions]


def get_config() -> ConfigDict:
    config = r1_zero_tiny.get_config()
    with config.unlocked():
        for stage in config.stages.values():
            stage.policy.update(POLICY)
            stage.evaluation.update(EVALUATION)
            stage.log.update(samples_every=1, samples=4)
            stage.batch.update(row_length=256, rows=8, micro_rows=8, logit_chunk=512)
        base, zero = config.stages.base, config.stages.zero
        base.update(steps=4)
        base.tokenizer.update(vocab_size=768, train_documents=2000)
        base.data.sources.corpus.kwargs = {"documents": 2000}
        base.checkpoint.update(every=2)
        base.optimizer.update(warmup_steps=2)
        zero.update(steps=4)
        zero.data.sources.arithmetic.kwargs.update(train_size=200, test_size=100)
        zero.rewards.digits = {"fn": "configs.smoke:digits", "weight": 1.0, "kwargs": {}}
        zero.rollout.update(prompts=4, samples=4, max_tokens=32)
        zero.checkpoint.update(every=2)
        zero.optimizer.update(warmup_steps=1)
        for stage in config.stages.values():
            stage.evaluation.tasks.arithmetic.kwargs.update(train_size=200, test_size=100)
    return config.lock()
