"""How large a learning rate does R1-Zero bear?

command:   python -m r1jax.main --config=experiments/learning_rate/config.py \\
               --workdir=runs/experiments/learning_rate
hardware:  2 CPU cores
time:      11 min 45 s beside much other work, 3 min 6 s of processor time; the base and the standard runs not counted
expected:  pass@1 59.0% (third), 74.7% (standard), 75.5% (triple), measured 2026-11-21
"""

from ml_collections import ConfigDict

from experiments import standard


def get_config() -> ConfigDict:
    return standard.sweep(
        question="Is 3e-4 a good learning rate for so short a run, or would a third or three times as much do better?",
        hypothesis=(
            "A third is too slow and ends ten points lower at least; three times as much is ahead at first and ends no "
            "higher, further from the reference and with less entropy."
        ),
        arms={
            "third": {"optimizer": {"lr": 1e-4}},
            "standard": {},
            "triple": {"optimizer": {"lr": 9e-4}},
        },
    )
