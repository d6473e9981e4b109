"""By what is the loss divided: each sequence's tokens, all tokens, or a constant?

command:   python -m r1jax.main --config=experiments/loss_normalisation/config.py \\
               --workdir=runs/experiments/loss_normalisation
hardware:  2 CPU cores
time:      3.5 minutes of processor time, without the base and what other experiments had made, 2026-11-21
expected:  pass@1 sequence 74.7%, token 76.7%, constant 77.3%; sequence is half a token longer
"""

from ml_collections import ConfigDict

from experiments import standard


def get_config() -> ConfigDict:
    return standard.sweep(
        question=(
            "Does dividing by a sequence's own tokens, by all tokens or by a constant change accuracy, and does "
            "it change length?"
        ),
        hypothesis=(
            "Accuracy is the same. With the division by its own length a long wrong answer is punished less a "
            "token, so completions end longer with 'sequence' than with 'constant'; 'token' lies between."
        ),
        arms={
            "sequence": {},
            "token": {"grpo": {"reduction": "token"}},
            "constant": {"grpo": {"reduction": "constant"}},
        },
    )
