"""PPO with a critic of its own, the baseline that GRPO replaced: `r1_zero_tiny`'s RL with nothing else changed.

command:   python -m r1jax.main --config=configs/ppo_tiny.py --workdir=runs/ppo \\
               --config.init_from=runs/quickstart/base
hardware:  2 CPU cores
expected:  60 steps: pass@1 86.1% (GRPO 87.4%), at twice the cost of an update; see experiments/LOG.md
"""

from ml_collections import ConfigDict

from configs import r1_zero_tiny


def get_config() -> ConfigDict:
    config = r1_zero_tiny.zero()
    config.init_from = ""
    # PPO has no groups: an advantage a token, whitened over the batch, and the KL a part of the reward.
    config.grpo.update(advantage_scale="batch", kl_estimator="k1", reduction="token")
    critic = config.optimizer.copy_and_resolve_references()
    critic.update(lr=1e-3)
    config.ppo = dict(
        discount=1.0,
        decay=1.0,  # an outcome's reward comes at the end: a lower one trusts a critic that knows nothing yet
        value_clip=0.2,
        optimizer=critic,
    )
    return config.lock()
