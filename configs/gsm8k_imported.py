"""RL on GSM8K from an imported checkpoint, prompted by its own chat template.

command:   python -m r1jax.convert --from_hf=DIR --to=runs/imported
           python -m r1jax.main --config=configs/gsm8k_imported.py:runs/imported --workdir=runs/gsm8k \\
               [--config.data.source_dir=DIR] [--config.steps=N]
           (what follows the colon is the checkpoint: the policy is read from it; without it, the policy is
           R1-Distill-Qwen-1.5B's, and --config.init_from=DIR must name one)
"""

from ml_collections import ConfigDict

from configs import r1_zero_tiny
from configs.models.imported import policy


def get_config(checkpoint: str = "") -> ConfigDict:
    config = r1_zero_tiny.zero()
    config.update(steps=100, init_from=checkpoint, template="chat")
    config.policy = policy(checkpoint, context=2048, attention_block=0)
    config.data.sources = {"gsm8k": {"name": "gsm8k", "weight": 1.0, "kwargs": {}}}
    # A model of the field boxes its answer; of its thought only the end tag is its own: the template opens it.
    config.rewards = {
        "accuracy": {"fn": "r1jax.rewards.answers:accuracy", "weight": 1.0, "kwargs": {"extraction": "boxed"}}
    }
    config.batch.update(row_length=2048, rows=4, micro_rows=4)
    config.rollout.update(prompts=16, samples=8, max_tokens=1024)
    config.optimizer.update(lr=1e-6)
    config.router.update(bias_rate=0.0)  # the load was balanced in pretraining
    config.evaluation.tasks = {"gsm8k": {"name": "gsm8k:test", "kwargs": {}}}
    config.evaluation.update(samples=1, limit=100, batch=50, max_tokens=1024, temperature=0.6, top_p=0.95)
    return config.lock()
