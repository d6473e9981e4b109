"""The smoke pipeline at a size for several processes on one machine; see test_local.py."""

from ml_collections import ConfigDict

from configs import rejection_tiny, smoke


def get_config() -> ConfigDict:
    config = smoke.get_config()
    with config.unlocked():
        for stage in config.stages.values():
            stage.update(steps=3)
            stage.checkpoint.update(every=1, keep=3)
            stage.evaluation.update(every=2)
        config.stages.zero.grpo.update(minibatches=2, epochs=2)
        made = rejection_tiny.get_config()
        made.unlock()
        made.update(init_from="zero", limit=8, shards=2, rewards=dict(digits=config.stages.zero.rewards.digits))
        made.rollout.update(prompts=4, samples=4, max_tokens=32)
        made.selection.threshold = 0.0
        for spec in (made.data.sources.arithmetic, made.selection.held_out.arithmetic):
            spec.kwargs.update(train_size=200, test_size=100)
        config.stages.made, config.order = made, ["base", "zero", "made"]
    return config.lock()
