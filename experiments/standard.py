"""What the experiments have in common: one base, one short RL stage, one set of held-out problems.

The base is the quickstart's, whole. The RL stage is the quickstart's, shortened: half the completions a step and a
sixth of the steps, so that it ends while accuracy is still rising, where a change to the recipe is seen soonest.
Stages and runs that several experiments ask for stand in `SHARED` and are made once.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import r1_zero_tiny

SHARED = "runs/experiments/shared"
SEEDS = (0, 1, 2)
STEPS = 20


def base() -> ConfigDict:
    return r1_zero_tiny.base()


def evaluation(config: ConfigDict) -> ConfigDict:
    """The stage with the experiments' final evaluation: 200 held-out problems, 4 samples each."""
    config.evaluation.update(samples=4, limit=200)
    return config


def zero(init_from: str = "base") -> ConfigDict:
    """16 prompts a step, so that 16 mini-batches have a group each; and rows that a step always fills in one pass, as
    each number of them is a program of its own to compile."""
    config = evaluation(r1_zero_tiny.zero())
    config.update(init_from=init_from, steps=STEPS)
    config.rollout.update(prompts=16, samples=8)
    config.batch.update(rows=24, micro_rows=24)
    config.checkpoint.update(every=STEPS)
    return config


def off_policy() -> ConfigDict:
    """R1's 16 mini-batches of one rollout batch: the ratio leaves 1, so clipping and its kind have a say."""
    config = zero()
    config.grpo.minibatches = 16
    config.batch.update(rows=2, micro_rows=2)
    return config


def sweep(
    question: str,
    hypothesis: str,
    arms: dict[str, Any],
    *,
    stage: ConfigDict | None = None,
    first: dict[str, ConfigDict] | None = None,
) -> ConfigDict:
    """A whole, locked sweep.

    Args:
      stage: what is varied; `zero()` where it is not given.
      first: the stages that runs start from, in order, beside the base.
    """
    stages = {"base": base()} | (first or {})
    tree = dict(
        stage="sweep",
        question=question,
        hypothesis=hypothesis,
        order=tuple(stages),
        first=stages,
        base=stage or zero(),
        arms=arms,
        seeds=SEEDS,
        shared=SHARED,
        part=0,
        parts=1,
    )
    return ConfigDict(tree).lock()
