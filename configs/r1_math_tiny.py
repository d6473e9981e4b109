"""GSM8K and MATH-500 through cold start, RL, rejection sampling and evaluation, on their real text and with a tiny
policy: that real problems pass through every part, no more.

So small a policy copies the sound of a solution and is right by luck: of 512 samples none was. The base has therefore
read GSM8K's own solutions, in plain words and in R1-Zero's form, and cold start and rejection sampling keep what is
readable, right or wrong (`READABLE`). What RL is rewarded for has to be right, as everywhere.

command:   python -m r1jax.main --config=configs/r1_math_tiny.py --workdir=runs/r1_math
           (--config=configs/r1_math_tiny.py:DIR reads DIR/gsm8k/{train,test}.jsonl and DIR/math500/test.jsonl;
           without it they are downloaded)
hardware:  2 CPU cores
time:      6 min 38 s beside other work, measured 2026-11-21
expected:  of 512 samples each cold start keeps 69, rejection sampling 58 (and 19 general ones); pass@1 0% on 16
           problems of either benchmark
"""

from ml_collections import ConfigDict

from configs import cold_start_tiny, r1_zero_tiny, rejection_tiny, reward_model_tiny

VOCABULARY = 1024
CONTEXT, ROW, TOKENS = 1024, 640, 128  # the longest training prompt takes over 500
READABLE = 1.0  # a threshold: a point for the form; one for the answer, too, would be 2
# A problem of the train split, and its solution.
FEW_SHOT = (
    "Weng earns $12 an hour for babysitting. Yesterday, she just did 50 minutes of babysitting. How much did she earn? "
    "Weng earns 12/60 = $0.2 per minute. Working 50 minutes, she earned 0.2 x 50 = $10. The answer is 10. {question}"
)
DIRECT = "{question} step by step, then check:"


def policy() -> ConfigDict:
    """About 0.3M parameters."""
    config = reward_model_tiny.policy()
    config.update(vocab_size=VOCABULARY, context=CONTEXT)
    return config


def held_out() -> dict:
    return {
        "gsm8k": {"name": "gsm8k:test", "kwargs": {}},
        "math500": {"name": "math500:test", "kwargs": {}},
    }


def trained(config: ConfigDict, source_dir: str, **changes) -> ConfigDict:
    """A stage of `r1_zero_tiny` at this policy's size, evaluated on both benchmarks."""
    config.policy = policy()
    config.data.source_dir = source_dir
    config.batch.update(row_length=ROW, rows=4, micro_rows=4)
    config.evaluation.tasks = held_out()
    config.evaluation.update(samples=4, limit=16, every_limit=16, batch=16, max_tokens=TOKENS)
    config.update(**changes)
    return config


def solutions(template: str) -> dict:
    return {"name": "gsm8k_solutions", "weight": 0.5, "kwargs": {"template": template}}


def base(source_dir: str) -> ConfigDict:
    config = trained(r1_zero_tiny.base(), source_dir, steps=240)
    config.data.sources = {"words": solutions("plain"), "tags": solutions("r1_zero")}
    config.evaluation.tasks = {}
    # Pieces end with words: real text has few phrases that recur.
    config.tokenizer.update(vocab_size=VOCABULARY, train_documents=4000, max_piece_length=16, across_words=False)
    return config


def tuned(source: str, source_dir: str, steps: int) -> ConfigDict:
    """The base, fine-tuned on what a stage has made."""
    config = trained(cold_start_tiny.sft(), source_dir, steps=steps, init_from="base", template="r1")
    config.data.sources = {"samples": {"name": f"samples:{source}", "weight": 1.0, "kwargs": {}}}
    return config


def reasoning(source_dir: str) -> ConfigDict:
    config = trained(r1_zero_tiny.zero(), source_dir, steps=8, init_from="cold_start", template="r1")
    config.data.sources = {"gsm8k": {"name": "gsm8k", "weight": 1.0, "kwargs": {}}}
    config.rollout.update(prompts=8, samples=8, max_tokens=TOKENS)
    config.batch.update(row_length=CONTEXT, rows=4, micro_rows=4)
    config.rewards = cold_start_tiny.rewards()
    config.rewards.format.weight = 0.1
    config.rewards.language = {"fn": "r1jax.rewards.language:consistency", "weight": 0.1, "kwargs": {}}
    # Few steps earn an answer; Adam would blow the rounding noise of the others up to whole updates.
    config.optimizer.update(lr=2e-4, eps=1e-6)
    config.log.update(samples_every=2)
    return config


def made(config: ConfigDict, source_dir: str, limit: int) -> ConfigDict:
    """A stage that makes a dataset from GSM8K's training problems; both test sets are held out of it."""
    config.data.sources = {"gsm8k": {"name": "gsm8k", "weight": 1.0, "kwargs": {}}}
    config.data.source_dir = source_dir
    config.update(limit=limit, shards=4)
    config.rollout.update(prompts=16, samples=4, max_tokens=TOKENS)
    config.selection.held_out = held_out()
    config.selection.threshold = READABLE
    config.selection.filters.long_paragraphs.maximum = 200  # words
    return config


def cold_data(source_dir: str) -> ConfigDict:
    config = made(cold_start_tiny.collect(), source_dir, limit=128)
    config.ways.few_shot.prompt, config.ways.direct.prompt = FEW_SHOT, DIRECT
    for way in config.ways.values():
        way.init_from = "base"  # which has R1-Zero's form from GSM8K's solutions: there is no R1-Zero here
    return config


def rejection(source_dir: str) -> ConfigDict:
    config = made(rejection_tiny.get_config().unlock(), source_dir, limit=128)
    config.update(init_from="reasoning", template="r1", rewards=cold_start_tiny.rewards())
    return config


def get_config(source_dir: str = "") -> ConfigDict:
    stages = dict(
        base=base(source_dir),
        cold_data=cold_data(source_dir),
        cold_start=tuned("cold_data", source_dir, steps=40),
        reasoning=reasoning(source_dir),
        rejection=rejection(source_dir),
        sft2=tuned("rejection", source_dir, steps=40),
    )
    return ConfigDict(dict(stage="pipeline", seed=0, order=tuple(stages), stages=stages)).lock()
