"""At which temperature are the samples drawn that RL learns from?

command:   python -m r1jax.main --config=experiments/sampling_temperature/config.py \\
               --workdir=runs/experiments/sampling_temperature
hardware:  2 CPU cores
time:      2.9 minutes of processor time, without the base and what other experiments had made, 2026-11-21
expected:  pass@1 69.4% at 0.6, 74.7% at 1, 73.1% at 1.4

The final evaluation is at temperature 1 for all.
"""

from ml_collections import ConfigDict

from experiments import standard


def get_config() -> ConfigDict:
    return standard.sweep(
        question="Does it pay to sample colder or hotter than 1 while training?",
        hypothesis=(
            "At 0.6 samples of a prompt agree more often, so fewer groups teach anything and entropy falls "
            "faster: worse. At 1.4 too few samples are right at first: slower, but entropy stays."
        ),
        arms={
            "cold": {"rollout": {"temperature": 0.6}},
            "one": {},
            "hot": {"rollout": {"temperature": 1.4}},
        },
    )
