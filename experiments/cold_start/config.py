"""Does RL that follows a cold start get further than RL from the base?

command:   python -m r1jax.main --config=experiments/cold_start/config.py \\
               --workdir=runs/experiments/cold_start
hardware:  2 CPU cores
time:      3.5 minutes of processor time, without the base and what other experiments had made, 2026-11-21
expected:  pass@1 77.4% after a cold start (75.6% before RL), 74.7% without: not told apart

The cold start's own cost (an R1-Zero, the collection and 150 steps of SFT) comes on top of its arm's.
"""

from ml_collections import ConfigDict

from configs import cold_start_tiny, r1_tiny
from experiments import standard


def data() -> ConfigDict:
    """Long chains of thought from the base, and from an R1-Zero whose text is rewritten."""
    config = r1_tiny.cold_data()
    config.limit = 800
    return config


def tuned() -> ConfigDict:
    config = standard.evaluation(cold_start_tiny.sft())
    config.update(init_from="base", steps=150)
    config.optimizer.update(rule="muon", beta1=0.95)
    config.data.sources = {"cold": {"name": "samples:cold_data", "weight": 1.0, "kwargs": {}}}
    return config


def get_config() -> ConfigDict:
    return standard.sweep(
        question=(
            "At equally many RL steps, does a cold start (SFT on collected chains of thought) end higher than RL "
            "from the base?"
        ),
        hypothesis=(
            "Yes: it starts near 70% and in R1's readable form, and the base near 30%; RL narrows the gap and "
            "does not close it."
        ),
        arms={
            "none": {},
            "cold_start": {"init_from": "tuned", "template": "r1", "rewards": r1_tiny.rules("r1")},
        },
        first={"zero": standard.zero(), "cold_data": data(), "tuned": tuned()},
    )
