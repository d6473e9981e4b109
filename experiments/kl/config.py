"""What does the KL to the reference do: its weight, its estimator, a reference that is refreshed?

command:   python -m r1jax.main --config=experiments/kl/config.py \\
               --workdir=runs/experiments/kl
hardware:  2 CPU cores
time:      7.1 minutes of processor time, without the base and what other experiments had made, 2026-11-21
expected:  pass@1 75.0% without, 74.7% at 0.001, 74.2% to 75.5% at 0.1: no difference
"""

from ml_collections import ConfigDict

from experiments import standard


def get_config() -> ConfigDict:
    return standard.sweep(
        question=(
            "How strong may the leash be, does its estimator matter as a loss, and does refreshing the reference "
            "free the policy?"
        ),
        hypothesis=(
            "0 and 0.001 are alike in so short a run. At 0.1, k3 and k2 hold the policy back alike; k1 does not, "
            "as its gradient is 0 on average; a refreshed reference gives the most part of the loss back."
        ),
        arms={
            "none": {"grpo": {"kl_coef": 0.0}},
            "weak": {},
            "k3": {"grpo": {"kl_coef": 0.1}},
            "k2": {"grpo": {"kl_coef": 0.1, "kl_estimator": "k2"}},
            "k1": {"grpo": {"kl_coef": 0.1, "kl_estimator": "k1"}},
            "refreshed": {"grpo": {"kl_coef": 0.1, "reference_refresh": 5}},
        },
    )
