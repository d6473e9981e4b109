"""The whole DeepSeek-R1 recipe on a laptop: every stage of `r1.py`, with other numbers.

command:   make r1
           (python -m r1jax.main --config=configs/r1_tiny.py --workdir=runs/r1)
           one stage alone, on what the earlier ones have left in runs/r1:
           python -m r1jax.main --config=configs/r1_tiny.py:reasoning --workdir=runs/reasoning
hardware:  2 CPU cores
time:      31 min 31 s with set-up, nothing compiled before, measured 2026-11-21
expected:  500 held-out problems, 16 samples, pass@1 (seed 1): base 32.3% (30.8), R1-Zero 86.5% (83.7), reasoning 86.0%
           (87.1), R1 89.4% (89.0), distilled student 84.4% (86.3), the same under RL alone 74.7% (79.0)
deviations from the paper, besides size:

- Base and student are pretrained here, on procedural text that `docs/corpus.md` describes: arithmetic in two languages,
  half of whose longer solutions change language on the way, and a little of how people ask and reply.
- Arithmetic is the one reasoning task, so nothing wants a judge, and evaluation has one benchmark of it.
- Rules rewrite R1-Zero's outputs; no person, and no model, refines them.
- The clip is 0.2, a rollout is one update, and the reference stays as it was: a stage has tens of updates.
- Preferences are over what is helpful and harmless in small talk about everyday things, from labelled pairs.
- Three runs that the paper only speaks of are stages: R1-Zero with a reward for keeping to one language, the student
  under RL alone, and PPO.
"""

from collections.abc import Collection

from ml_collections import ConfigDict

from configs import cold_start_tiny, distill_tiny, ppo_tiny, r1_zero_tiny, rejection_tiny, reward_model_tiny

GENERAL_TASKS = ("facts", "translation", "greeting", "advice")
RL_STEPS = 100
VOCABULARY = 1024
FOLDER = "runs/r1"  # where a stage that runs alone finds the earlier ones


def evaluation(general: bool) -> ConfigDict:
    """Held-out problems; of a stage that answers people, held-out requests of each kind, too."""
    config = r1_zero_tiny.evaluation()
    for kind in GENERAL_TASKS if general else ():
        config.tasks[f"general_{kind}"] = {"name": f"general_{kind}:test", "kwargs": {"test_size": 100}}
    return config


def pretrained(config: ConfigDict) -> ConfigDict:
    """A base, or a student's: solutions in words, in one language or two, and requests with replies good and bad."""
    mixture = r1_zero_tiny.MIXTURE | dict(terse=0.0, switch=0.5)
    config.data.sources.corpus.kwargs.mixture = mixture
    config.data.sources.corpus.weight = 0.9
    config.data.sources.replies = {"name": "replies", "weight": 0.05, "kwargs": {}}
    config.data.sources.general = {"name": "general", "weight": 0.05, "kwargs": {"thinking": 0.8}}
    config.policy.vocab_size = VOCABULARY
    config.tokenizer.vocab_size = VOCABULARY
    return config


def reinforced(init_from: str, steps: int, template: str, rewards: dict, lr: float = 3e-4) -> ConfigDict:
    """The nearer a policy is to what is rewarded, the smaller the rate that does it good."""
    config = r1_zero_tiny.zero()
    config.policy.vocab_size = VOCABULARY
    config.update(init_from=init_from, steps=steps, template=template)
    config.optimizer.lr = lr
    config.rewards = rewards
    config.evaluation = evaluation(general=template == "r1")
    return config


def rules(template: str) -> dict:
    """A right answer, and the form it stands in."""
    rewards = r1_zero_tiny.zero().rewards.to_dict()
    if template == "r1":
        rewards["accuracy"]["kwargs"] = {"extraction": "last_line"}
        rewards["accuracy"]["tasks"] = ["arithmetic", "general_facts", "general_translation"]
        rewards["format"] |= {"fn": "r1jax.rewards.format:readable", "tasks": ["arithmetic"]}
    return rewards


def language() -> dict:
    """The share of words in the question's language, added as it is."""
    return {"language": {"fn": "r1jax.rewards.language:consistency", "weight": 1.0, "kwargs": {}}}


def preferences() -> dict:
    return {
        name: {
            "fn": f"r1jax.rewards.preference:{name}",
            "weight": weight,
            "kwargs": {"checkpoint": name},
            "tasks": ["general_advice"],
        }
        for name, weight in (("helpful", 0.2), ("harmless", 1.0))
    }


def cold_data() -> ConfigDict:
    config = cold_start_tiny.collect()
    config.limit = 3200
    for way, spec in config.ways.items():
        spec.init_from = "zero" if way == "rewritten" else "base"
    return config


def tuned(source: str, steps: int) -> ConfigDict:
    """The base, fine-tuned on what a stage has made."""
    config = cold_start_tiny.sft()
    config.policy.vocab_size = VOCABULARY
    config.update(steps=steps, init_from="base")
    config.optimizer.update(rule="muon", beta1=0.95)
    config.data.sources = {"samples": {"name": f"samples:{source}", "weight": 1.0, "kwargs": {}}}
    config.evaluation = evaluation(general=True)
    return config


def rejection() -> ConfigDict:
    config = rejection_tiny.get_config().unlock()
    config.update(init_from="reasoning", template="r1", limit=4000, rewards=cold_start_tiny.rewards())
    return config


def reward_model(name: str) -> ConfigDict:
    config = reward_model_tiny.get_config().unlock().stages[name]
    config.update(init_from="sft2", template="r1", steps=50, policy=tuned("", 1).policy)
    return config


def general() -> ConfigDict:
    """The end of RL: general requests too, with what is helpful and harmless."""
    config = reinforced("all", 60, "r1", rules("r1") | language() | preferences(), lr=1e-4)
    config.rollout.temperature = 0.7
    config.data.sources.arithmetic.weight = 0.5
    config.data.sources.general = {"name": "general", "weight": 0.5, "kwargs": {}}
    config.rollout.max_tokens = 64
    return config


def all_scenarios() -> ConfigDict:
    config = reinforced("sft2", 40, "r1", rules("r1") | language(), lr=1e-4)
    config.rollout.temperature = 0.7
    return config


def student(config: ConfigDict, **changes) -> ConfigDict:
    config.policy = distill_tiny.policy()
    config.policy.vocab_size = VOCABULARY
    config.router.update(bias_rate=0.0, balance_coef=0.0)
    config.update(**changes)
    return config


def alone() -> ConfigDict:
    return student(reinforced("student", RL_STEPS, "r1_zero", rules("r1_zero")))


def ppo() -> ConfigDict:
    config = reinforced("base", RL_STEPS, "r1_zero", rules("r1_zero"))
    baseline = ppo_tiny.get_config()
    config.grpo, config.ppo = baseline.grpo, baseline.ppo
    return config


def stages() -> dict[str, ConfigDict]:
    return dict(
        base=pretrained(r1_zero_tiny.base()),
        zero=reinforced("base", RL_STEPS, "r1_zero", rules("r1_zero")),
        zero_language=reinforced("base", RL_STEPS, "r1_zero", rules("r1_zero") | language()),
        cold_data=cold_data(),
        cold_start=tuned("cold_data", 250),
        reasoning=reinforced("cold_start", RL_STEPS, "r1", rules("r1") | language(), lr=2e-4),
        rejection=rejection(),
        sft2=tuned("rejection", 420),
        helpful=reward_model("helpful"),
        harmless=reward_model("harmless"),
        all=all_scenarios(),
        general=general(),
        student=student(pretrained(r1_zero_tiny.base())),
        distilled=student(tuned("rejection", 420), init_from="student"),
        alone=alone(),
        ppo=ppo(),
    )


def placed(config: ConfigDict, names: Collection[str]) -> ConfigDict:
    """A stage's config with the folders of earlier stages for their names."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            placed(value, names)
        elif key in ("init_from", "checkpoint") and value in names:
            config[key] = f"{FOLDER}/{value}"
        elif key == "name" and value.removeprefix("samples:") in names and value.startswith("samples:"):
            config[key] = f"samples:{FOLDER}/{value.removeprefix('samples:')}"
    return config


def get_config(stage: str = "") -> ConfigDict:
    """The pipeline, or one of its stages."""
    every = stages()
    if not stage:
        return ConfigDict(dict(stage="pipeline", seed=0, order=tuple(every), stages=every)).lock()
    if stage not in every:
        raise ValueError(f"stage is {stage!r}; expected one of {', '.join(every)}")
    return placed(every[stage], every.keys()).lock()
