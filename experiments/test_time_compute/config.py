"""What do more samples, and longer thoughts, buy when nothing is trained any more?

command:   python -m r1jax.main --config=experiments/test_time_compute/config.py \\
               --workdir=runs/experiments/test_time_compute
hardware:  2 CPU cores
time:      1.2 minutes of processor time, without the base and what other experiments had made, 2026-11-21
expected:  maj@k 74.0%, 77.3%, 85.8%, 89.3%, 89.7% at k = 1, 2, 4, 8, 16; 58.9% at 16 tokens of thought

The sweep trains nothing that others have not; what is asked is measured on its checkpoints, into `curves.csv`:

           python -m experiments.run_all test_time_compute
"""

from ml_collections import ConfigDict

from experiments import standard


def get_config() -> ConfigDict:
    return standard.sweep(
        question="What does a trained policy gain from voting over k samples, and lose under a budget of thinking?",
        hypothesis=(
            "Voting gains most of what it can by k = 4; accuracy falls steeply below 16 tokens of thought, and "
            "more than 24 bring nothing."
        ),
        arms={"standard": {}},
    )
