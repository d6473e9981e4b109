"""The nine findings, each computed from one run's records: rows of figures, and the rule that decides.

A finding is reproduced where every row that has a rule keeps it in every run: its whole 95% interval lies on the rule's
side of the bound. The bounds were set before the recipe had been run whole.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from experiments.r1.intervals import Measure, difference, exact, mean, median, pooled, ratio
from experiments.r1.records import MissingError, Problem, Recipe
from r1jax.rewards import language
from r1jax.rewards.format import ANSWER, THINK, readable

SEVERAL = 2.0  # "several-fold": at least so many times
LITTLE = 0.03  # accuracy that counts as a small cost, or as none
MIXED = 0.9  # a completion is mixed where fewer of its words are of the question's language
SOME = 0.05  # share of mixed completions from which a policy is said to mix languages
AT_ONCE = 0.9  # share of greetings answered without a thought, for a policy that does not ponder
NEEDS_IT = 2  # operations from which a problem needs thinking
ENDS = 4  # a quarter of the steps, at the beginning and at the end of RL

_OPERATION = re.compile(r"[\d)] [-+*] ")


class Rule(NamedTuple):
    side: str  # above | below
    bound: float

    def holds(self, measure: Measure) -> bool:
        return measure.low > self.bound if self.side == "above" else measure.high < self.bound


class Row(NamedTuple):
    """A figure of a finding. `unit` is one of the keys of page.UNITS."""

    name: str
    unit: str
    measure: Measure
    rule: Rule | None = None
    headline: bool = False  # stands for the finding in the table of findings


class Finding(NamedTuple):
    key: str
    title: str
    rows: Callable[[Recipe], list[Row]]


def accuracy(problems: Sequence[Problem]) -> Measure:
    """pass@1: the mean accuracy over all samples."""
    return mean([np.mean(p["correct"]) for p in problems])


def majority(problem: Problem) -> float:
    """Whether the most frequent answer, the earliest of equals, is right; none is given by a completion without one."""
    votes = Counter(answer for answer in problem["answers"] if answer is not None)
    if not votes:
        return 0.0
    return float(problem["correct"][problem["answers"].index(votes.most_common(1)[0][0])])


def operations(question: str) -> int:
    """How many operations its expression has."""
    return len(_OPERATION.findall(question))


def consistency(problem: Problem) -> list[float]:
    """Of each completion that was kept, the share of words in the question's language."""
    texts = problem["completions"]
    return language.consistency([""] * len(texts), texts, [problem["language"]] * len(texts))


def is_readable(completion: str) -> bool:
    """A thought between its tags, then a summary in words for a reader: R1-Zero's bare answer block is none."""
    return readable([completion]) == [1.0] and ANSWER not in completion


def f1(run: Recipe) -> list[Row]:
    base, zero = map(accuracy, run.paired(("base", "zero")))
    return [
        Row("base, pass@1", "share", base),
        Row("zero, pass@1", "share", zero),
        Row("zero - base", "points", difference(zero, base)),
        Row("zero / base", "times", ratio(zero, base), Rule("above", SEVERAL), True),
    ]


def f2(run: Recipe) -> list[Row]:
    base, zero = run.paired(("base", "zero"))
    counts = [operations(problem["question"]) for problem in base]
    rows = []
    for count in sorted(set(counts)):
        own = [i for i, n in enumerate(counts) if n == count]
        before, after = (_tokens([stage[i] for i in own]) for stage in (base, zero))
        rows += [
            Row(f"base, problems of {count} operations", "tokens", before),
            Row(f"zero, problems of {count} operations", "tokens", after),
        ]
    hard = [i for i, n in enumerate(counts) if n >= NEEDS_IT]
    if not hard:
        raise MissingError(f"{run.name}: no problem has {NEEDS_IT} operations or more")
    before, after = ([stage[i] for i in hard] for stage in (base, zero))
    name = f"zero - base, problems of {NEEDS_IT} or more"
    rows += [
        Row(name, "more tokens", difference(_tokens(after), _tokens(before)), Rule("above", 0.0), True),
        Row(f"{name}, right completions", "more tokens", difference(_right_tokens(after), _right_tokens(before))),
    ]
    length = run.series("zero", "completion/mean_length")
    part = max(len(length) // ENDS, 1)
    first, last = mean(length[:part]), mean(length[-part:])
    rows += [
        Row("zero, the first quarter of its steps", "tokens", first),
        Row("zero, the last quarter of its steps", "tokens", last),
        Row("zero, last - first quarter", "more tokens", difference(last, first), Rule("above", 0.0)),
    ]
    return rows


def f3(run: Recipe) -> list[Row]:
    zero = run.task("zero")
    samples = len(zero[0]["answers"])
    once, voted = accuracy(zero), mean([majority(p) for p in zero])
    return [
        Row("zero, pass@1", "share", once),
        Row(f"zero, maj@{samples}", "share", voted),
        Row(f"zero, maj@{samples} - pass@1", "points", difference(voted, once), Rule("above", 0.0), True),
    ]


def f4(run: Recipe) -> list[Row]:
    """R1-Zero, the same with the language reward from the start, and reasoning RL, which has it after a cold start."""
    names = ("zero", "zero_language", "reasoning")
    stages = dict(zip(names, run.paired(names), strict=True))
    shares = {name: [consistency(p) for p in problems] for name, problems in stages.items()}
    spoken = {name: mean([np.mean(own) for own in share]) for name, share in shares.items()}
    mixed = {name: mean([np.mean(np.less(own, MIXED)) for own in share]) for name, share in shares.items()}
    right = {name: accuracy(problems) for name, problems in stages.items()}
    some = {"zero": Rule("above", SOME), "zero_language": Rule("below", SOME)}
    fewer = difference(mixed["zero_language"], mixed["zero"])
    cost = difference(right["zero_language"], right["zero"])
    return [
        *(Row(f"{name}, words in the question's language", "share", spoken[name]) for name in names),
        *(Row(f"{name}, mixed completions", "share", mixed[name], some.get(name)) for name in names),
        Row("zero_language - zero, mixed completions", "points", fewer, Rule("below", 0.0), True),
        *(Row(f"{name}, pass@1", "share", right[name]) for name in names),
        Row("zero_language - zero, pass@1", "points", cost, Rule("above", -LITTLE)),
    ]


def f5(run: Recipe) -> list[Row]:
    names = ("zero", "cold_start", "reasoning")
    stages = dict(zip(names, run.paired(names), strict=True))
    form = {name: mean([np.mean([is_readable(text) for text in p["completions"]]) for p in problems])
            for name, problems in stages.items()}  # fmt: skip
    spoken = {name: mean([np.mean(consistency(p)) for p in problems]) for name, problems in stages.items()}
    right = {name: accuracy(problems) for name, problems in stages.items()}
    return [
        *(Row(f"{name}, readable form", "share", form[name]) for name in names),
        Row("cold_start - zero, readable form", "points", difference(form["cold_start"], form["zero"]),
            Rule("above", 0.0), True),
        *(Row(f"{name}, words in the question's language", "share", spoken[name]) for name in names),
        *(Row(f"{name}, pass@1", "share", right[name]) for name in names),
        Row("reasoning - zero, pass@1", "points", difference(right["reasoning"], right["zero"]),
            Rule("above", -LITTLE)),
    ]  # fmt: skip


def f6(run: Recipe) -> list[Row]:
    """From reasoning RL, which knows no general requests, to the last policy."""
    last = "general"
    names = ("reasoning", *(name for name in ("sft2", "all") if name in run.problems), last)
    kept = dict(zip(names, map(accuracy, run.paired(names)), strict=True))
    rows = [Row(f"{name}, arithmetic pass@1", "share", kept[name]) for name in names]
    cost = difference(kept[last], kept["reasoning"])
    rows += [Row("general - reasoning, arithmetic pass@1", "points", cost, Rule("above", -LITTLE))]
    for kind in ("facts", "translation"):
        right = dict(zip(names, map(accuracy, run.paired(names, f"general_{kind}:test")), strict=True))
        rows += [Row(f"{name}, {kind}", "share", right[name]) for name in names]
        gain = difference(right[last], right["reasoning"])
        rows += [Row(f"general - reasoning, {kind}", "points", gain, Rule("above", 0.0), kind == "facts")]
    for model, unit in (("helpful", "nats"), ("harmless", "share")):
        scores = {name: _score(run, name, model) for name in names}
        rows += [Row(f"{name}, {model}", unit, scores[name]) for name in names]
        gain = difference(scores[last], scores["reasoning"])
        unit = "points" if unit == "share" else "more nats"
        rows += [Row(f"general - reasoning, {model}", unit, gain, Rule("above", 0.0))]
    greeted = dict(zip(names, run.paired(names, "general_greeting:test"), strict=True))
    at_once = {name: mean([np.mean([THINK not in text for text in p["completions"]]) for p in problems])
               for name, problems in greeted.items()}  # fmt: skip
    rows += [Row(f"{name}, greetings answered without a thought", "share", at_once[name],
                 Rule("above", AT_ONCE) if name == last else None) for name in names]  # fmt: skip
    return rows


def f7(run: Recipe) -> list[Row]:
    student, distilled, alone = map(accuracy, run.paired(("student", "distilled", "alone")))
    return [
        Row("student's base, pass@1", "share", student),
        Row("distilled, pass@1", "share", distilled),
        Row("the same student under RL alone, pass@1", "share", alone),
        Row("distilled - alone", "points", difference(distilled, alone), Rule("above", 0.0), True),
    ]


def f8(run: Recipe) -> list[Row]:
    rows = []
    for stage in ("zero", "general"):
        curve = run.budgets.get(stage)
        if not curve:
            raise MissingError(f"{run.name}: stage {stage} has no curve over budgets of thinking")
        at = {budget: mean(correct_MK.mean(axis=1)) for budget, correct_MK in sorted(curve.items())}
        least, most = min(at), max(at)
        rows += [Row(f"{stage}, {budget} tokens", "share", measure) for budget, measure in at.items()]
        rise = difference(at[most], at[least])
        rows += [Row(f"{stage}, {most} - {least} tokens", "points", rise, Rule("above", 0.0), stage == "general")]
    return rows


def f9(run: Recipe) -> list[Row]:
    grpo, ppo = map(accuracy, run.paired(("zero", "ppo")))
    seconds = {name: median(run.series(name, "time/update_s")) for name in ("zero", "ppo")}
    rows = [
        Row("GRPO, pass@1", "share", grpo),
        Row("PPO, pass@1", "share", ppo),
        Row("GRPO - PPO, pass@1", "points", difference(grpo, ppo), Rule("above", -LITTLE), True),
        Row("GRPO, seconds of an update (median)", "seconds", seconds["zero"]),
        Row("PPO, seconds of an update (median)", "seconds", seconds["ppo"]),
        Row("GRPO / PPO, seconds of an update", "times", ratio(seconds["zero"], seconds["ppo"]), Rule("below", 1.0)),
    ]
    held = {}
    for name, label in (("zero", "GRPO"), ("ppo", "PPO")):
        if name not in run.state_bytes:
            raise MissingError(f"{run.name}: stage {name} has no checkpoint to weigh")
        held[name] = exact(sum(run.state_bytes[name].values()))
        parts = ", ".join(run.state_bytes[name])
        rows += [Row(f"{label}, training state ({parts})", "bytes", held[name])]
    return [*rows, Row("GRPO / PPO, training state", "times", ratio(held["zero"], held["ppo"]), Rule("below", 1.0))]


def _tokens(problems: Sequence[Problem]) -> Measure:
    return mean([np.mean(p["tokens"]) for p in problems])


def _right_tokens(problems: Sequence[Problem]) -> Measure:
    """Mean tokens of the completions that are right."""
    right = [np.asarray(p["correct"]) >= 1.0 for p in problems]
    return pooled(
        [np.dot(p["tokens"], own) for p, own in zip(problems, right, strict=True)], [own.sum() for own in right]
    )


def _score(run: Recipe, stage: str, model: str) -> Measure:
    scores = run.scores.get(stage, {}).get(model)
    if scores is None:
        raise MissingError(f"{run.name}: stage {stage} has no scores of the reward model {model}")
    return mean(scores)


FINDINGS = (
    Finding("F1", "RL alone lifts accuracy several-fold", f1),
    Finding("F2", "Thinking grows longer on problems that need it", f2),
    Finding("F3", "The majority of 16 beats one sample", f3),
    Finding("F4", "R1-Zero mixes languages; the language reward ends that at little cost", f4),
    Finding("F5", "Cold start makes answers readable at no loss", f5),
    Finding("F6", "The last stages keep the reasoning and gain the general tasks", f6),
    Finding("F7", "The distilled student beats the same student under RL alone", f7),
    Finding("F8", "Accuracy rises with the thinking that is allowed", f8),
    Finding("F9", "GRPO reaches PPO's accuracy with less memory and time a step", f9),
)
