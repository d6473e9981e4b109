"""What does it cost to learn from samples of the policy before?

command:   python -m r1jax.main --config=experiments/ahead/config.py \\
               --workdir=runs/experiments/ahead
hardware:  2 CPU cores
time:      2.1 minutes of processor time, without the base and what other experiments had made, 2026-11-21
expected:  pass@1 74.7% from each step's own samples, 75.8% from those of the step before
"""

from ml_collections import ConfigDict

from experiments import standard


def get_config() -> ConfigDict:
    return standard.sweep(
        question=("Does a batch teach less that was sampled a step early, by the policy before the last update?"),
        hypothesis=(
            "Hardly: one update of this size moves few tokens' ratios far from 1, so 20 steps end within the noise of "
            "those on-policy, a step behind at first."
        ),
        arms={"on_policy": {}, "ahead": {"rollout": {"ahead": 1}}},
    )
