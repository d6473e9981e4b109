"""The smoke pipeline at a size for several processes on one machine; see test_local.py."""

from ml_collections import ConfigDict

from configs import smoke


def get_config() -> ConfigDict:
    config = smoke.get_config()
    with config.unlocked():
        for stage in config.stages.values():
            stage.update(steps=3)
            stage.checkpoint.update(every=1, keep=3)
            stage.evaluation.update(every=2)
        config.stages.zero.grpo.update(minibatches=2, epochs=2)
    return config.lock()
