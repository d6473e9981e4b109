"""R1-Zero on a laptop: pretrains a tiny base on procedural text, then teaches it to reason by reward alone.

command:   make quickstart
           (python -m r1jax.main --config=configs/r1_zero_tiny.py --workdir=runs/quickstart)
hardware:  2 CPU cores
time:      8 min 43 s with set-up (seed 1: 9 min 33 s), measured 2026-11-21
expected:  500 held-out problems, 16 samples; base -> R1-Zero: pass@1 31.3% -> 89.7% (seed 1: 39.3% -> 90.5%),
           format 37.8% -> 99.2% (45.7% -> 99.3%)
"""

from ml_collections import ConfigDict

from configs.models import tiny

# One problem distribution for the corpus, the prompts and the held-out test (disjoint by expression).
PROBLEMS = dict(max_operand=9, max_operand_pair=10, max_abs=20)
# What the base has read (docs/corpus.md): mostly worked solutions, an eighth of it in R1-Zero's template.
MIXTURE = dict(
    facts=0.12,
    solutions=0.66,
    dialogue=0.05,
    statements=0.04,
    template=0.13,
    tagged=0.40,
    broken=0.25,
    worked=0.25,
    direct=0.10,
    right=0.85,
    template_right=0.75,
    left_to_right=0.80,
    guess=0.10,
)


def evaluation() -> ConfigDict:
    return ConfigDict(
        dict(
            tasks={"arithmetic": {"name": "arithmetic:test", "kwargs": {"problems": dict(PROBLEMS)}}},
            samples=16,
            limit=500,
            every=0,
            every_samples=4,
            every_limit=100,
            temperature=1.0,
            top_p=1.0,
            max_tokens=48,
            batch=100,
        )
    )


def shared() -> dict:
    """What both stages have in common."""
    return dict(
        seed=0,
        template="r1_zero",
        policy=tiny.get_config(),
        evaluation=evaluation(),
        log=dict(samples_every=10, samples=16),
        mesh=dict(data=-1, fsdp=1, expert=1, tensor=1, context=1),
        grading=dict(timeout_s=60.0, on_error=0.0, workers=2),
    )


def base() -> ConfigDict:
    """Pretraining from scratch."""
    return ConfigDict(
        dict(
            stage="sft",
            steps=1500,
            init_from="",
            tokenizer=dict(vocab_size=768, train_documents=10_000, max_piece_length=96, across_words=True),
            data=dict(
                sources={
                    "corpus": {
                        "name": "arithmetic_web",
                        "weight": 1.0,
                        "kwargs": {"problems": dict(PROBLEMS), "mixture": MIXTURE},
                    }
                },
                data_dir="~/.cache/r1jax/data",
                source_dir="",
            ),
            batch=dict(row_length=128, rows=16, micro_rows=16, logit_chunk=1024),
            optimizer=dict(
                rule="muon",
                lr=4e-3,
                warmup_steps=30,
                schedule="cosine",
                final_scale=0.1,
                beta1=0.95,
                beta2=0.99,
                eps=1e-8,
                weight_decay=0.05,
                clip_norm=1.0,
            ),
            router=dict(bias_rate=1e-2, balance_coef=1e-3),
            mtp_coef=0.0,
            checkpoint=dict(every=250, keep=1),
            **shared(),
        )
    )


def zero() -> ConfigDict:
    """Pure RL from the base: accuracy and format, no demonstrations."""
    return ConfigDict(
        dict(
            stage="rl",
            steps=120,
            init_from="base",
            data=dict(
                sources={"arithmetic": {"name": "arithmetic", "weight": 1.0, "kwargs": {"problems": dict(PROBLEMS)}}},
                data_dir="~/.cache/r1jax/data",
                source_dir="",
            ),
            rollout=dict(
                prompts=16,
                samples=16,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_tokens=48,
                ahead=0,
                precision="policy",
                slots=0,
            ),
            rewards={
                "accuracy": {"fn": "r1jax.rewards.answers:accuracy", "weight": 1.0, "kwargs": {}},
                "format": {"fn": "r1jax.rewards.format:think_answer", "weight": 0.1, "kwargs": {}},
            },
            grpo=dict(
                advantage_scale="std",
                aggregation="sum_then_normalize",
                clip_low=0.2,
                clip_high=0.2,
                kl_coef=0.001,
                kl_estimator="k3",
                reduction="sequence",
                importance="token",
                sampler_cap=0.0,
                minibatches=1,
                epochs=1,
                reference_refresh=0,
            ),
            batch=dict(row_length=256, rows=8, micro_rows=8, logit_chunk=1024),
            optimizer=dict(
                rule="adamw",
                lr=3e-4,
                warmup_steps=5,
                schedule="cosine",
                final_scale=0.1,
                beta1=0.9,
                beta2=0.99,
                eps=1e-8,
                weight_decay=0.0,
                clip_norm=1.0,
            ),
            router=dict(bias_rate=1e-3, balance_coef=0.0),
            checkpoint=dict(every=20, keep=1),
            **shared(),
        )
    )


def get_config() -> ConfigDict:
    config = ConfigDict(dict(stage="pipeline", seed=0, order=("base", "zero"), stages=dict(base=base(), zero=zero())))
    return config.lock()
