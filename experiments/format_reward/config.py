"""What does the format reward do at weight 0, 0.1 and 1?

command:   python -m r1jax.main --config=experiments/format_reward/config.py \\
               --workdir=runs/experiments/format_reward
hardware:  2 CPU cores
time:      3.5 minutes of processor time, without the base and what other experiments had made, 2026-11-21
expected:  pass@1 75.5%, 74.7%, 74.3% and format 86.3%, 89.2%, 90.6% at weight 0, 0.1, 1
"""

from ml_collections import ConfigDict

from experiments import standard


def get_config() -> ConfigDict:
    return standard.sweep(
        question="How much does the weight of the format reward matter, and does R1-Zero need it at all?",
        hypothesis=(
            "Without it, format rises all the same, as only an answer in its tags is read as one, but later; at "
            "weight 1 format is learnt first, and accuracy lags behind."
        ),
        arms={
            "none": {"rewards": {"format": {"weight": 0.0}}},
            "tenth": {},
            "one": {"rewards": {"format": {"weight": 1.0}}},
        },
    )
