"""DeepSeek-R1 at the paper's own settings: the stages of `r1_tiny.py`, with other numbers.

command:   python -m r1jax.main --config=configs/r1.py --workdir=runs/r1
           (or configs/r1.py:STUDENT, one of STUDENTS, to distil into; the default is qwen_7b)
needs:     runs/imported/{deepseek_v3_base,deepseek_v3} and the student's base, by r1jax.convert; data/*.jsonl, the
           problems and general records by kind (task records, see docs/design.md); data/aime24/test.jsonl
hardware:  a slice of 1,024 chips, by the mesh below. This config has been validated, and never run.

Source: arXiv 2501.12948, v1 and v2 with its appendices. What it does not say, or what is done otherwise here:

- Its data are not published: the problems are the reader's own, mixed by the paper's counts.
- It counts updates; a step here is one rollout of 8,192 completions and the 16 updates it is cut into.
- It does not give AdamW's betas, decay, precision or warmup: those are DeepSeek-V3's pretraining's, without warmup; nor
  R1-Zero's clip: it is the first RL stage's; nor the number of that stage's updates: as many as of the last one.
- The last RL stage is two stages, for general requests and preferences come in only for its last 400 updates. The
  second begins with fresh moments of AdamW; the reference would have been replaced by then anyway.
- SFT rows are packed to 32,768 tokens, so a batch of 128 rows holds more samples than 128. Its steps are two epochs at
  the mean length that the paper gives.
- It has people refine the cold-start data; here a model does, after rules. Its number ("thousands") is taken as 5,000.
- Bug fixing (8k) and harmlessness (12k) prompts are not told apart from code and general ones.
- The reward models start from the SFT checkpoint. Preference rewards are weighted 1, as all are.
"""

import importlib

from ml_collections import ConfigDict

from configs import benchmarks, meshes
from configs.models import deepseek_v3

BASE, CHAT = "runs/imported/deepseek_v3_base", "runs/imported/deepseek_v3"
UPDATES = 16  # of a rollout
SAMPLES, MEAN_TOKENS = 804_745, 5355  # the second SFT's, of which the general ones are GENERAL
GENERAL = 177_812
COLD_START = 5000
CONTEXT = 32_768
PROMPT = 4096  # room for one, beside a completion in a packed row
STUDENTS = {  # name -> (shape, first learning rate); the base of each is runs/imported/NAME
    "qwen_1_5b": ("r1_distill_qwen_1_5b", 1e-4),
    "qwen_7b": ("r1_distill_qwen_7b", 8e-5),
    "qwen_14b": ("r1_distill_qwen_14b", 7e-5),
    "qwen_32b": ("r1_distill_qwen_32b", 6e-5),
    "llama_8b": ("r1_distill_llama_8b", 5e-5),
    "llama_70b": ("r1_distill_llama_70b", 2e-5),
}
PROBLEMS = {"math": 26.0, "code": 17.0, "stem": 22.0, "logic": 15.0}  # thousands of prompts of RL
REQUESTS = 66.0  # and of general ones

FEW_SHOT = """Question: What is 17 * 6 - 2?
First 17 * 6 = 10 * 6 + 7 * 6 = 60 + 42 = 102. Then 102 - 2 = 100. Let me check: 100 + 2 = 102 and 102 / 6 = 17. \
The answer is 100.

Question: {question}
"""
DIRECT = """{question}

Think at length before you answer. Look back at each step, verify it in another way where you can, and correct what \
does not hold. End with a sentence that says: The answer is ...
"""
REWRITE = """Below are a question and the thoughts that led to its right answer. Write the thoughts anew, in the \
question's own language, in whole sentences and short paragraphs, with every step that is needed, its checks, and no \
new ones.

Question: {question}

Thoughts: {thought}
"""


def shared(template: str) -> dict:
    """What every stage that writes text has."""
    return dict(
        seed=0,
        template=template,
        policy=deepseek_v3.get_config(),
        evaluation=benchmarks.evaluation("aime24", every=50, batch=30),
        checkpoint=dict(every=10, keep=2),
        log=dict(samples_every=5, samples=32),
        grading=grading(),
        mesh=mesh(),
    )


def mesh() -> dict:
    return meshes.pod(expert=16, context=16)


def grading() -> dict:
    return dict(timeout_s=600.0, on_error=0.0, workers=64)


def adamw(lr: float, schedule: str) -> dict:
    return dict(
        rule="adamw", lr=lr, warmup_steps=0, schedule=schedule, final_scale=0.1, beta1=0.9, beta2=0.95, eps=1e-8,
        weight_decay=0.1, clip_norm=1.0, precision=dict(moments="bfloat16", master=True),
    )  # fmt: skip


def data(sources: dict) -> dict:
    return dict(sources=sources, data_dir="~/.cache/r1jax/data", source_dir="data")


def prompts(**thousands: float) -> dict:
    """Sources by kind: a file of task records each, whose `task` is the kind."""
    return {kind: {"name": f"jsonl:data/{kind}.jsonl", "weight": n, "kwargs": {}} for kind, n in thousands.items()}


def rules(form: str) -> dict:
    """Rewards of reasoning: the answer by rules, programs by their tests, the rest by a judge."""
    judge = {"checkpoint": CHAT, "max_tokens": 2048}
    return {
        "accuracy": {
            "fn": "r1jax.rewards.answers:accuracy",
            "weight": 1.0,
            "kwargs": {"extraction": form},
            "tasks": ["math", "logic"],
        },
        "code": {"fn": "r1jax.rewards.code:stdin_stdout", "weight": 1.0, "kwargs": {"workers": 64}, "tasks": ["code"]},
        "judge": {
            "fn": "r1jax.rewards.judge:agreement",
            "weight": 1.0,
            "kwargs": {"judge": judge},
            "tasks": ["stem"],
        },
    }


def language() -> dict:
    """The share of words in the prompt's language, added as it is."""
    return {"language": {"fn": "r1jax.rewards.language:consistency", "weight": 1.0, "kwargs": {}}}


def grpo() -> dict:
    return dict(
        advantage_scale="std",
        aggregation="sum_then_normalize",
        clip_low=10.0,
        clip_high=10.0,
        kl_coef=0.001,
        kl_estimator="k3",
        reduction="sequence",
        importance="sequence",
        sampler_cap=0.0,
        minibatches=UPDATES,
        epochs=1,
        reference_refresh=400 // UPDATES,
    )


def rl(init_from: str, template: str, updates: int, rewards: dict, temperature: float = 1.0) -> ConfigDict:
    """512 questions a rollout, 32 an update, 16 answers to each."""
    return ConfigDict(
        dict(
            stage="rl",
            steps=updates // UPDATES,
            init_from=init_from,
            data=data(prompts(**PROBLEMS)),
            rollout=dict(
                prompts=32 * UPDATES,
                samples=16,
                temperature=temperature,
                top_k=0,
                top_p=1.0,
                max_tokens=CONTEXT,
                ahead=0,
                precision="policy",
                slots=0,
                mesh=meshes.decoding(tensor=4),
            ),
            rewards=rewards,
            grpo=grpo(),
            batch=dict(row_length=CONTEXT + PROMPT, rows=64, micro_rows=64, logit_chunk=4096),
            optimizer=adamw(3e-6, "constant"),
            router=dict(bias_rate=1e-3, balance_coef=0.0),
            **shared(template),
        )
    )


def zero() -> ConfigDict:
    """RL alone, from the base; answers may be twice as long from update 8,200 on."""
    form = {"format": {"fn": "r1jax.rewards.format:think_answer", "weight": 1.0, "kwargs": {}}}
    config = rl(BASE, "r1_zero", 10_400, rules("answer") | form)
    config.rollout.longer = [dict(step=8200 // UPDATES + 1, max_tokens=65_536)]
    config.batch.row_length = 65_536 + PROMPT
    return config


def selection(keep: str) -> dict:
    return dict(
        threshold=1.0,
        keep=keep,
        filters={"mixed_language": {}, "long_paragraphs": {}, "code_blocks": {}},
        held_out={"aime24": {"name": "aime24:test", "kwargs": {}}, "math500": {"name": "math500:test", "kwargs": {}}},
        held_out_ngram=10,
        similar_ngram=5,
        similarity=0.8,
    )


def cold_data() -> ConfigDict:
    """Long chains of thought in readable form, most of them R1-Zero's own."""
    return ConfigDict(
        dict(
            stage="cold_start",
            seed=0,
            template="r1",
            ways={
                "zero": {"init_from": "zero", "weight": 0.8, "template": "r1_zero", "prompt": "", "stop": ""},
                "few_shot": {
                    "init_from": BASE,
                    "weight": 0.1,
                    "template": "",
                    "prompt": FEW_SHOT,
                    "stop": "\n\nQuestion:",
                },
                "direct": {"init_from": CHAT, "weight": 0.1, "template": "", "prompt": DIRECT, "stop": ""},
            },
            summaries={"en": "The answer is {answer}.", "zh": "答案是 {answer}。"},
            rewriter=dict(model={"checkpoint": CHAT, "max_tokens": 8192}, prompt=REWRITE),
            data=data(prompts(math=26.0, logic=15.0)),
            limit=COLD_START,
            shards=64,
            rollout=dict(
                prompts=64,
                samples=4,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_tokens=CONTEXT,
                ahead=0,
                precision="policy",
                slots=0,
            ),
            rewards={"accuracy": rules("last_line")["accuracy"]},
            grading=grading(),
            selection=selection("best"),
            mesh=mesh(),
        )
    )


def sft(init_from: str, source: str, samples: int, rows: int, lr: float) -> ConfigDict:
    """Two epochs of a dataset that an earlier stage has made."""
    return ConfigDict(
        dict(
            stage="sft",
            steps=max(1, 2 * samples * MEAN_TOKENS // (rows * CONTEXT)),
            init_from=init_from,
            tokenizer=dict(vocab_size=129_280, train_documents=1, max_piece_length=16, across_words=False),
            data=data({"samples": {"name": f"samples:{source}", "weight": 1.0, "kwargs": {}}}),
            batch=dict(row_length=CONTEXT, rows=rows, micro_rows=64, logit_chunk=4096),
            optimizer=adamw(lr, "cosine"),
            router=dict(bias_rate=1e-3, balance_coef=1e-4),
            mtp_coef=0.1,
            **shared("r1"),
        )
    )


def rejection() -> ConfigDict:
    """The reasoning checkpoint's right samples, and general records to each as in the paper's table of data."""
    return ConfigDict(
        dict(
            stage="rejection",
            seed=0,
            init_from="reasoning",
            template="r1",
            data=data(prompts(**PROBLEMS)),
            limit=0,
            shards=1024,
            rollout=dict(
                prompts=64,
                samples=16,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_tokens=CONTEXT,
                ahead=0,
                precision="policy",
                slots=0,
            ),
            rewards=rules("last_line"),
            grading=grading(),
            selection=selection("all"),
            join=dict(sources=prompts(general_replies=1.0), ratio=GENERAL / (SAMPLES - GENERAL)),
            mesh=mesh(),
        )
    )


def reward_model(objective: str, kind: str, examples: int, row_length: int) -> ConfigDict:
    """One epoch in batches of 256."""
    return ConfigDict(
        dict(
            stage="reward_model",
            seed=0,
            steps=examples // 256,
            init_from="sft2",
            template="r1",
            objective=objective,
            policy=deepseek_v3.get_config(),
            sources=prompts(**{kind: 1.0}),
            batch=dict(examples=256, row_length=row_length, rows=64, micro_rows=64),
            optimizer=adamw(6e-6, "constant"),
            router=dict(bias_rate=1e-3, balance_coef=1e-4),
            evaluation=dict(limit=0, every=50, every_limit=1000),
            checkpoint=dict(every=50, keep=1),
            mesh=mesh(),
        )
    )


def general() -> ConfigDict:
    """The end of RL: general requests too, with what is helpful and harmless."""
    form = {"format": {"fn": "r1jax.rewards.format:readable", "weight": 1.0, "kwargs": {}, "tasks": ["general"]}}
    preferences = {
        name: {
            "fn": f"r1jax.rewards.preference:{name}",
            "weight": 1.0,
            "kwargs": {"checkpoint": name},
            "tasks": ["general"],
        }
        for name in ("helpful", "harmless")
    }
    config = rl("all", "r1", 400, rules("last_line") | language() | form | preferences, temperature=0.7)
    config.data.sources = prompts(**PROBLEMS, general=REQUESTS)
    return config


def distilled(student: str) -> ConfigDict:
    """The samples teach a dense student by SFT alone."""
    shape, lr = STUDENTS[student]
    config = sft(f"runs/imported/{student}", "rejection", SAMPLES, rows=64, lr=lr)
    config.policy = importlib.import_module(f"configs.models.{shape}").get_config()
    config.mtp_coef = 0.0
    config.router.update(bias_rate=0.0, balance_coef=0.0)
    config.optimizer.precision = None  # its parameters are float32
    config.mesh = dict(data=2, fsdp=32, expert=1, tensor=1, context=16)
    return config


def get_config(student: str = "qwen_7b") -> ConfigDict:
    if student not in STUDENTS:
        raise ValueError(f"student is {student!r}; expected one of {', '.join(STUDENTS)}")
    stages = dict(
        zero=zero(),
        cold_data=cold_data(),
        cold_start=sft(BASE, "cold_data", COLD_START, rows=128, lr=5e-5),
        reasoning=rl("cold_start", "r1", 1700, rules("last_line") | language()),
        rejection=rejection(),
        sft2=sft(BASE, "rejection", SAMPLES, rows=128, lr=5e-5),
        helpful=reward_model("bradley_terry", "helpful_pairs", 66_000, row_length=2 * 8192),
        harmless=reward_model("pointwise", "safety_labels", 106_000, row_length=8192),
        all=rl("sft2", "r1", 1300, rules("last_line") | language(), temperature=0.7),
        general=general(),
        distilled=distilled(student),
    )
    return ConfigDict(dict(stage="pipeline", seed=0, order=tuple(stages), stages=stages)).lock()
