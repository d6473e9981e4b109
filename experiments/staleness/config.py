"""How many updates may one batch of samples serve?

command:   python -m r1jax.main --config=experiments/staleness/config.py \\
               --workdir=runs/experiments/staleness
hardware:  2 CPU cores
time:      4.2 minutes of processor time, without the base and what other experiments had made, 2026-11-21
expected:  pass@1 74.7%, 83.6%, 81.3% with 1, 4, 16 updates a batch
"""

from ml_collections import ConfigDict

from experiments import standard


def get_config() -> ConfigDict:
    return standard.sweep(
        question=(
            "Does splitting each rollout batch in 4 or 16 mini-batches, each an update on ever staler samples, "
            "learn more from the same samples?"
        ),
        hypothesis=(
            "4 updates learn more than 1 from the same samples; 16 at the same rate learn fastest at first, but "
            "clip and drift, and end with less entropy and no better."
        ),
        arms={
            "one": {},
            "four": {"grpo": {"minibatches": 4}, "batch": {"rows": 2, "micro_rows": 2}},
            "sixteen": {"grpo": {"minibatches": 16}, "batch": {"rows": 2, "micro_rows": 2}},
        },
    )
