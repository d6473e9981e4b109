"""Supervised fine-tuning of an imported checkpoint on questions with completions, a JSON line each.

command:   python -m r1jax.convert --from_hf=DIR --to=runs/imported
           python -m r1jax.main --config=configs/sft_imported.py:runs/imported --workdir=runs/sft \\
               --config.data.sources.lines.name=jsonl:FILE [--config.data.source_dir=DIR] [--config.steps=N]
           (a line is {"question", "completion", "answer"}; what follows the colon in --config is the checkpoint, as in
           gsm8k_imported.py)
"""

from ml_collections import ConfigDict

from configs import r1_zero_tiny
from configs.models.imported import policy


def get_config(checkpoint: str = "") -> ConfigDict:
    config = r1_zero_tiny.base()
    config.update(steps=100, init_from=checkpoint, template="chat")
    config.policy = policy(checkpoint, context=2048, attention_block=0)
    config.data.sources = {"lines": {"name": "jsonl:completions.jsonl", "weight": 1.0, "kwargs": {}}}
    config.batch.update(row_length=2048, rows=8, micro_rows=4)
    config.optimizer.update(rule="adamw", lr=1e-5, warmup_steps=10, beta1=0.9, weight_decay=0.0)
    config.router.update(bias_rate=0.0, balance_coef=1e-4)  # the load was balanced in pretraining
    config.evaluation.tasks = {"gsm8k": {"name": "gsm8k:test", "kwargs": {}}}
    config.evaluation.update(samples=1, limit=100, batch=50, max_tokens=1024, temperature=0.6, top_p=0.95)
    return config.lock()
