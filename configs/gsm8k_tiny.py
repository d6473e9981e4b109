"""R1-Zero on GSM8K's own training questions with the tiny policy: that real data pass through every part, no more.

A tiny policy that has read arithmetic only does not learn word problems: expect accuracy and format near 0 throughout.
The base is one of `r1_zero_tiny`; its tokenizer takes about 230 tokens for a question, 900 for the longest,
hence the longer context (rotary positions have no weights).

command:   python -m r1jax.main --config=configs/gsm8k_tiny.py --workdir=runs/gsm8k \\
               --config.init_from=runs/quickstart/base [--config.data.source_dir=DIR]
           (DIR holds gsm8k/train.jsonl and gsm8k/test.jsonl; without it they are downloaded)
hardware:  2 CPU cores
time:      about 3 minutes, of which one compiles; measured 2026-11-21 beside other work
expected:  100 held-out problems, 4 samples: pass@1 1.5%, format 0%
"""

from ml_collections import ConfigDict

from configs import r1_zero_tiny


def get_config() -> ConfigDict:
    config = r1_zero_tiny.zero()
    config.update(steps=20, init_from="")
    config.data.sources = {"gsm8k": {"name": "gsm8k", "weight": 1.0, "kwargs": {}}}
    config.policy.update(context=1280)
    config.batch.update(row_length=1280, rows=4, micro_rows=4)
    config.rollout.update(prompts=8, samples=8, max_tokens=128)
    # Most steps earn nothing; Adam would blow the rounding noise of their gradients up to whole updates.
    config.optimizer.update(lr=2e-4, eps=1e-6)
    config.evaluation.tasks = {"gsm8k": {"name": "gsm8k:test", "kwargs": {}}}
    config.evaluation.update(samples=4, limit=100, batch=50, max_tokens=128)
    config.log.update(samples_every=5)
    return config.lock()
