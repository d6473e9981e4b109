"""What does a reward for keeping to the question's language cost?

command:   python -m r1jax.main --config=experiments/language_reward/config.py \\
               --workdir=runs/experiments/language_reward
hardware:  2 CPU cores
time:      8 minutes of processor time, its own base among it, 2026-11-21
expected:  words in the question's language 82%, 93% and 97% at weights 0, 0.2 and 1;
           pass@1 59.5%, 59.1%, 56.5%: not told apart

Its base is one of its own, half as long in training as the others', as theirs hardly mixes languages.
"""

from ml_collections import ConfigDict

from configs import r1_tiny, r1_zero_tiny
from experiments import standard


def mixing_base() -> ConfigDict:
    """Has read solutions in words, half of whose longer ones change language on the way."""
    config = standard.evaluation(r1_tiny.pretrained(r1_zero_tiny.base()))
    config.steps = 750
    return config


def rl() -> ConfigDict:
    config = standard.zero("mixing_base")
    config.policy.vocab_size = r1_tiny.VOCABULARY
    config.rewards = config.rewards.to_dict() | rewarded(0.0)
    return config


def rewarded(weight: float) -> dict:
    reward = r1_tiny.language()["language"]
    return {"language": reward | {"weight": weight}}


def get_config() -> ConfigDict:
    return standard.sweep(
        question=(
            "Does the language reward keep chains of thought in one language, and what does it cost in accuracy?"
        ),
        hypothesis=(
            "Without it mixing stays as it was; at 0.2 it falls, at 1 it is nearly gone; accuracy ends a few "
            "points lower, as the paper found."
        ),
        arms={"none": {}, "fifth": {"rewards": rewarded(0.2)}, "one": {"rewards": rewarded(1.0)}},
        stage=rl(),
        first={"mixing_base": mixing_base()},
    )
