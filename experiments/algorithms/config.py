"""GRPO, PPO or RAFT, at equal compute?

command:   python -m r1jax.main --config=experiments/algorithms/config.py \\
               --workdir=runs/experiments/algorithms
hardware:  2 CPU cores
time:      4.2 minutes of processor time, without the base and what other experiments had made, 2026-11-21
expected:  pass@1 RAFT 82.8%, PPO 76.6%, GRPO 74.7%: RAFT, with two updates a step, is the fastest in 20 steps

Equal compute is meant in generated tokens: 20 steps of 128 completions. The seconds of a step are in steps.csv.
"""

from ml_collections import ConfigDict

from configs import ppo_tiny, raft_tiny
from experiments import standard


def get_config() -> ConfigDict:
    ppo, raft = ppo_tiny.get_config(), raft_tiny.get_config()
    return standard.sweep(
        question="From equally many sampled completions, which learns most: GRPO, PPO with a critic, or RAFT?",
        hypothesis=(
            "GRPO and PPO alike, with the critic of no use yet and twice the time an update; RAFT some points "
            "behind, as it learns from right samples alone."
        ),
        arms={
            "grpo": {},
            "ppo": {"grpo": ppo.grpo, "ppo": ppo.ppo},
            "raft": {"grpo": raft.grpo, "raft": raft.raft},
        },
    )
