"""The plain self-teaching loop (RFT, RAFT): sample 16, verify, keep the best, fine-tune on it, repeat.

command:   python -m r1jax.main --config=configs/raft_tiny.py --workdir=runs/raft \\
               --config.init_from=runs/quickstart/base
hardware:  2 CPU cores
expected:  60 steps: pass@1 84.1% (GRPO 87.4%), see experiments/LOG.md
"""

from ml_collections import ConfigDict

from configs import r1_zero_tiny


def get_config() -> ConfigDict:
    config = r1_zero_tiny.zero()
    config.init_from = ""
    config.raft = dict(keep="best", least=1.0)  # right, and of those the best in form
    config.grpo.update(kl_coef=0.0, minibatches=1, epochs=2)
    return config.lock()
