"""Experts or a dense policy of equal active size, and is the router's bias moved in RL?

command:   python -m r1jax.main --config=experiments/moe_or_dense/config.py \\
               --workdir=runs/experiments/moe_or_dense
hardware:  2 CPU cores
time:      7.5 minutes of processor time, a base of its own among it, without the shared one, 2026-11-21
expected:  pass@1 74.7% (experts), 74.4% (bias frozen), 76.4% (dense): not told apart
"""

from ml_collections import ConfigDict

from configs.models import tiny
from experiments import standard


def dense() -> ConfigDict:
    """As many feed-forward channels a token in the mean of the layers: (256 + 2 * 3 * 64) / 3, and as much else."""
    policy = tiny.get_config()
    policy.update(dense_layers=policy.layers, dense_ffn=213)
    return policy


def dense_base() -> ConfigDict:
    config = standard.base()
    config.policy = dense()
    return config


def get_config() -> ConfigDict:
    return standard.sweep(
        question=(
            "Does a mixture of experts beat a dense policy of equal active size, and does freezing the router's "
            "bias in RL matter?"
        ),
        hypothesis=(
            "The experts' base is better by some points and stays so; in 20 steps the bias moves by 0.02 at most, "
            "which nobody sees."
        ),
        arms={
            "moe": {},
            "frozen": {"router": {"bias_rate": 0.0}},
            "dense": {"init_from": "dense_base", "policy": dense(), "router": {"bias_rate": 0.0}},
        },
        first={"dense_base": dense_base()},
    )
