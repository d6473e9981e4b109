"""How far may the ratio go before it is clipped: 0.2, 0.28 above, or 10?

command:   python -m r1jax.main --config=experiments/clip_range/config.py \\
               --workdir=runs/experiments/clip_range
hardware:  2 CPU cores
time:      4.2 minutes of processor time, without the base and what other experiments had made, 2026-11-21
expected:  pass@1 81.3% at 0.2, 83.4% at 0.28 above, 80.3% at 10: hardly a difference
"""

from ml_collections import ConfigDict

from experiments import standard


def get_config() -> ConfigDict:
    return standard.sweep(
        question=(
            "With 16 updates on one rollout batch, does the clip range matter: 0.2 on both sides, 0.28 above "
            "(DAPO), or 10 (R1)?"
        ),
        hypothesis=(
            "At 10 nothing is ever clipped and the last mini-batches learn from stale samples unbounded; yet at "
            "this rate ratios stay near 1, so all three end alike, and 0.28 keeps a little more entropy."
        ),
        arms={
            "symmetric": {},
            "higher": {"grpo": {"clip_high": 0.28}},
            "ten": {"grpo": {"clip_low": 10.0, "clip_high": 10.0}},
        },
        stage=standard.off_policy(),
    )
