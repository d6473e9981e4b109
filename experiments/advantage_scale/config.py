"""Is an advantage divided by its group's deviation, the batch's, or not at all?

command:   python -m r1jax.main --config=experiments/advantage_scale/config.py \\
               --workdir=runs/experiments/advantage_scale
hardware:  2 CPU cores
time:      4.5 minutes of processor time, without the base and what other experiments had made, 2026-11-21
expected:  pass@1 std 74.7%, batch 75.3%, none 75.6%: no difference
"""

from ml_collections import ConfigDict

from experiments import standard


def get_config() -> ConfigDict:
    return standard.sweep(
        question="Does dividing advantages by the group's standard deviation help, and where does it put the weight?",
        hypothesis=(
            "Little changes in accuracy: Adam undoes a common scale. With the group's deviation, groups that "
            "nearly agree weigh as much as those that are split, so format, which is nearly learnt, gets more of "
            "the gradient late."
        ),
        arms={
            "std": {},
            "batch": {"grpo": {"advantage_scale": "batch"}},
            "none": {"grpo": {"advantage_scale": "none"}},
        },
    )
