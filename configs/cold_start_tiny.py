"""Cold start on the quickstart's checkpoints: long chains of thought collected in three ways, then SFT on them.

command:   make quickstart
           python -m r1jax.main --config=configs/cold_start_tiny.py --workdir=runs/cold_start
hardware:  2 CPU cores
deviations from the paper: rules rewrite, no person refines; thoughts are as long as a sum is hard; arithmetic alone
"""

from ml_collections import ConfigDict

from configs import r1_zero_tiny, rejection_tiny

BASE, ZERO = "runs/quickstart/base", "runs/quickstart/zero"
# A worked example, not of the held-out set. More of them, or the answer's sentence, and the base ends the text: of its
# documents each has one problem.
FEW_SHOT = "What is 2 + 4 * 3? 4 * 3 = 12. 2 + 12 = 14. {question}"
# What so small a base makes of a wish to reflect and verify.
DIRECT = "{question} step by step, then check:"


def ways() -> dict:
    written = dict(init_from=BASE, template="", stop="\n")
    return {
        "few_shot": dict(written, weight=1.0, prompt=FEW_SHOT),
        "direct": dict(written, weight=1.0, prompt=DIRECT),
        "rewritten": dict(init_from=ZERO, weight=2.0, template="r1_zero", prompt="", stop=""),
    }


def rewards() -> dict:
    return {
        "accuracy": {
            "fn": "r1jax.rewards.answers:accuracy",
            "weight": 1.0,
            "kwargs": {"extraction": "last_line"},
        },
        "format": {"fn": "r1jax.rewards.format:readable", "weight": 1.0, "kwargs": {}},
    }


def collect() -> ConfigDict:
    zero = r1_zero_tiny.zero()
    return ConfigDict(
        dict(
            stage="cold_start",
            seed=0,
            template="r1",
            ways=ways(),
            summaries={"en": "The answer is {answer}.", "es": "La respuesta es {answer}."},
            rewriter=dict(model={}, prompt=""),
            data=zero.data,
            limit=1600,
            shards=8,
            rollout=dict(
                prompts=50,
                samples=4,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_tokens=48,
                ahead=0,
                precision="policy",
                slots=0,
            ),
            rewards=rewards(),
            grading=zero.grading,
            selection=rejection_tiny.selection(),
            mesh=zero.mesh,
        )
    )


def sft() -> ConfigDict:
    """The base, fine-tuned on what was collected."""
    config = r1_zero_tiny.base()
    config.update(steps=100, init_from=BASE, template="r1")
    config.data.sources = {"cold": {"name": "samples:collect", "weight": 1.0, "kwargs": {}}}
    config.optimizer.update(rule="adamw", lr=1e-3, warmup_steps=5, beta1=0.9, weight_decay=0.0)
    config.checkpoint.update(every=50)
    return config


def get_config() -> ConfigDict:
    stages = dict(collect=collect(), sft=sft())
    return ConfigDict(dict(stage="pipeline", seed=0, order=tuple(stages), stages=stages)).lock()
