"""Rejection sampling from the quickstart's R1-Zero: right answers in form, near-duplicates and test questions dropped,
general requests joined at the paper's ratio.

command:   make quickstart
           python -m r1jax.main --config=configs/rejection_tiny.py --workdir=runs/rejection
           (the same line again, in other shells at the same time, shares the work)
hardware:  2 CPU cores
deviations from the paper: 4 samples a prompt, arithmetic alone; filters' limits are those of short texts
"""

from ml_collections import ConfigDict

from configs import r1_zero_tiny


def rewards() -> dict:
    """Right and in form, or dropped: the threshold wants both."""
    return {
        "accuracy": {"fn": "r1jax.rewards.answers:accuracy", "weight": 1.0, "kwargs": {}},
        "format": {"fn": "r1jax.rewards.format:think_answer", "weight": 1.0, "kwargs": {}},
    }


def selection() -> dict:
    return dict(
        threshold=2.0,
        keep="all",
        filters={
            "mixed_language": {"minimum": 0.9},
            "long_paragraphs": {"maximum": 100},
            "code_blocks": {},
            "repetitive": {"ngram": 6, "maximum": 0.2},
        },
        held_out=r1_zero_tiny.evaluation().tasks.to_dict(),
        held_out_ngram=10,
        similar_ngram=3,
        similarity=0.9,
    )


def general() -> dict:
    return {"general": {"name": "general", "weight": 1.0, "kwargs": {}}}


def get_config() -> ConfigDict:
    zero = r1_zero_tiny.zero()
    config = ConfigDict(
        dict(
            stage="rejection",
            seed=0,
            init_from="runs/quickstart/zero",
            template="r1_zero",
            data=zero.data,
            limit=2000,
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
            selection=selection(),
            join=dict(sources=general(), ratio=1 / 3),
            mesh=zero.mesh,
        )
    )
    return config.lock()
