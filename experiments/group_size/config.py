"""How many samples of a prompt, where the completions of a step stay the same?

command:   python -m r1jax.main --config=experiments/group_size/config.py \\
               --workdir=runs/experiments/group_size
hardware:  2 CPU cores
time:      3.2 minutes of processor time, without the base and what other experiments had made, 2026-11-21
expected:  pass@1 72.5%, 74.7%, 74.7% with groups of 2, 8, 32
"""

from ml_collections import ConfigDict

from experiments import standard


def get_config() -> ConfigDict:
    return standard.sweep(
        question="At 128 completions a step, is it better to sample few prompts often or many prompts seldom?",
        hypothesis=(
            "8 a prompt is near the best: groups of 2 have a noisy baseline and often no spread; groups of 32 see "
            "4 problems a step, so that steps differ widely."
        ),
        arms={
            "of_2": {"rollout": {"prompts": 64, "samples": 2}},
            "of_8": {},
            "of_32": {"rollout": {"prompts": 4, "samples": 32}},
        },
    )
