"""What becomes of a policy whose reward can be had without being right?

command:   python -m r1jax.main --config=experiments/reward_hacking/config.py \\
               --workdir=runs/experiments/reward_hacking
hardware:  2 CPU cores
time:      2.6 minutes of processor time, without the base and what other experiments had made, 2026-11-21
expected:  pass@1 74.7%, with a reward for length 73.3%, for tags 74.3%: neither is hacked in 20 steps
"""

from ml_collections import ConfigDict

from experiments import standard


def reward(name: str) -> dict:
    return {"fn": f"experiments.reward_hacking.rewards:{name}", "weight": 1.0, "kwargs": {}}


def get_config() -> ConfigDict:
    return standard.sweep(
        question="Do a reward for length and one for the number of tags get hacked, and how does one see it?",
        hypothesis=(
            "Both do: the reward climbs past that of the honest run while accuracy stays behind it. Under the "
            "first, completions run into the token limit; under the second, tags are repeated and format falls."
        ),
        arms={
            "honest": {},
            "length": {"rewards": {"length": reward("length")}},
            "tags": {"rewards": {"tags": reward("tags")}},
        },
    )
