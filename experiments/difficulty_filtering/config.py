"""Does it pay to drop the problems that all samples solve, or none?

command:   python -m r1jax.main --config=experiments/difficulty_filtering/config.py \\
               --workdir=runs/experiments/difficulty_filtering
hardware:  2 CPU cores
time:      4.0 minutes of processor time, without the base and what other experiments had made, 2026-11-21
expected:  pass@1 74.7% of 16 prompts, 75.9% of the best 16 of 32, 78.7% of all 32
"""

from ml_collections import ConfigDict

from experiments import standard


def get_config() -> ConfigDict:
    return standard.sweep(
        question=(
            "Groups whose samples all agree teach nothing: is it better to draw twice as many prompts and learn "
            "from those that differ (DAPO)?"
        ),
        hypothesis=(
            "Per update yes: at 16 groups an update filtering ends a few points higher. Per sampled token no: "
            "learning from all 32 groups does as well, as the groups that agree cost an update's time but harm "
            "nothing."
        ),
        arms={
            "all_of_16": {},
            "best_of_32": {"dynamic_sampling": {"drawn": 32}},
            "all_of_32": {"rollout": {"prompts": 32}},
        },
    )
