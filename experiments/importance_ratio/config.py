"""Is the ratio of importance a token's, or a whole sequence's?

command:   python -m r1jax.main --config=experiments/importance_ratio/config.py \\
               --workdir=runs/experiments/importance_ratio
hardware:  2 CPU cores
time:      4.3 minutes of processor time, without the base and what other experiments had made, 2026-11-21
expected:  pass@1 token 81.3%, sequence 81.2%, its geometric mean 82.3%: no difference
"""

from ml_collections import ConfigDict

from experiments import standard


def get_config() -> ConfigDict:
    return standard.sweep(
        question=(
            "With 16 updates on one rollout batch, does it matter whether the ratio is of tokens, of the "
            "sequence, or its geometric mean (GSPO)?"
        ),
        hypothesis=(
            "The product over a sequence leaves the clip range soonest, so most is clipped and learning is "
            "slowest; tokens and the mean over tokens are alike."
        ),
        arms={
            "token": {},
            "sequence": {"grpo": {"importance": "sequence"}},
            "sequence_mean": {"grpo": {"importance": "sequence_mean"}},
        },
        stage=standard.off_policy(),
    )
