"""Hostile completions, made by a grammar, through the rewards as a run has them: none crashes, hangs or is rewarded."""

import random
import re
import time

import numpy as np
import pytest

from r1jax.config import RewardsConfig, RewardSpec
from r1jax.rewards.compose import load_rewards

NUMBER, ROOT, WORD = "48271", "\\sqrt{48271}", "\\text{heliotrope}"
GOLDS = (NUMBER, ROOT, WORD, "(48271,\\infty)", "\\{48271, \\pi\\}", "\\begin{pmatrix} 48271 \\\\ 2 \\end{pmatrix}")
FORMS = ("answer", "boxed", "hashes", "last_line")
LIMIT_S = 60.0

# No number of these is 48271, and none can be made of them by chance: what is built of them is wrong.
ATOMS = [
    "9**9**9", "9^{9^{9}}", "9^{99999999}", "99999999!", "((9!)!)!", "1e99999", "1e-99999", "\\infty",
    "\\sum_{n=1}^{10^9} n", "\\prod_{k=1}^{99999} k", "\\int_0^{9^9} e^{x^{x}} dx", "\\lim_{n\\to\\infty} n",
    "\\binom{99999}{4999}", "x", "\\pi", "4827l", "４８２７１", "४८२७१", "𝟒𝟖𝟐𝟕𝟏", "④⑧②⑦①", "4\u03008271", "4\u200b8271",
    "4\u00ad8271", "4 8 2 7 1", "48,27,1", "482 71", "hеliotrope", "ｈeliotrope", "\0", "\ud800", "\udfff\ud800",
    "\ufeff", "\u202e17284", "\x1b[2J", "\r", "\u2028", "\\input{/etc/passwd}", "\\write18{id}",
    "\\def\\a{\\a\\a}\\a", "\\csname", "\\begin{pmatrix}", "\\end{cases}", "\\left(", "\\right]", "\\frac",
    "\\sqrt[", "\\text{", "}", "{", "$", "$$", "\\(", "\\]", "&", "\\\\", "_", "^", "%", "#", "=", "<", ">", "|",
    "!", "'", '"', "`", "~", "\\", "__import__('os')._exit(1)", "().__class__.__base__", "lambda: 0", "f'{1}'",
    "exec('1')", "NaN", "inf", "None", "True", "", "<think>", "</think>", "<answer>", "</answer>", "</answer",
    "<ANSWER>", "＜answer＞", "\\boxed{", "#### ", "The answer is ",
]  # fmt: skip
MILD = ["2", "7", "-3", "0", "1.5", "x", "n", "\\pi", "\\sqrt{2}", "\\frac{1}{2}", "i", "\\infty", "\\cos x", "e", "99"]
WRAPS = [
    "\\frac{%s}{%s}", "\\sqrt[%s]{%s}", "{%s}^{%s}", "%s_{%s}", "(%s,%s)", "[%s,%s)", "\\{%s,%s\\}", "%s=%s",
    "%s+%s", "%s-%s", "%s\\cdot %s", "%s/%s", "%s**%s", "%s//%s", "%s \\pm %s", "%s or %s",
    "\\left(%s\\right)^{%s}", "\\text{%s}%s", "\\log_{%s} %s", "\\begin{pmatrix} %s & %s \\end{pmatrix}",
    "\\begin{cases} %s \\\\ %s \\end{cases}", "%s\n%s", "%s %s", "%s\0%s", "\\%s%s",
]  # fmt: skip
BOMBS = [
    "(", "{", "[", "\\left(", "\\sqrt{", "\\frac{", "\\boxed{", "\\text{", "-",
    "$", "^", "1+", "1,", "9^", "<think>", "\\\\", "!",
]  # fmt: skip

# The right answer, where no answer may stand.
MISPLACED = [
    "{a}", "<think>{a}</think>", "<think> <answer>{a}</answer>", "<think><answer>{a}</answer></think>",
    "<answer>{a}", "<answer>{a}</answer> or so", "<answer>{a}</answer><answer>1</answer>",
    "<answer>1</answer><answer>{a}</answer>", "<answer><answer>{a}</answer></answer>",
    "<answer>{a}</answer></answer>", "</answer>{a}<answer>", "<Answer>{a}</Answer>", "<answer >{a}</answer >",
    "<answer>1 or {a}</answer>", "<answer>{a} or 1</answer>", "<answer>{a}, 1</answer>", "<answer>{a}=1</answer>",
    "<answer>1={a}</answer>", "<answer><think>1</think>{a}</answer>", "＜answer＞{a}＜/answer＞",
    "<answer>{a}</answer>\0", "<answer>{a}\0</answer>", "<answer>not {a}</answer>", "<answer>-{a}</answer>",
    "<answer>$1$ ${a}$</answer>", "<answer>\\boxed{{1}} \\boxed{{{a}}}</answer>", "<answer>{a}</answer>User: 1",
    "<answer>{a}\n1</answer>", "<answer>{a} \\text{{ or }} 1</answer>", "<answer>{{{a}, 1}}</answer>",
]  # fmt: skip


def wrong(rng: random.Random, depth: int, atoms: list[str]) -> str:
    """Something that is not the answer."""
    if depth == 0 or rng.random() < 0.15:
        return rng.choice(atoms)
    if rng.random() < 0.1:
        return rng.choice(BOMBS) * rng.choice((3, 17, 40, 90)) + wrong(rng, depth - 1, atoms)
    left, right = wrong(rng, depth - 1, atoms), rng.choice(atoms)
    return right.join(left.join(rng.choice(WRAPS).split("%s", 1)).split("%s"))


def megabytes(rng: random.Random) -> str:
    unit = rng.choice([*BOMBS, "9", "\0", " ", "<answer>", "</think>", "9*", "#### 1\n", "\\boxed{1}", "a "])
    return (unit * (2_000_000 // len(unit))) + rng.choice(["", "1", "</answer>", "<answer>1</answer>"])


def hostile(rng: random.Random) -> tuple[str, str]:
    """A completion and the gold answer that it does not give."""
    gold = rng.choice(GOLDS)
    kind = rng.random()
    if kind < 0.005:
        return megabytes(rng), gold
    if kind < 0.25:
        return rng.choice(MISPLACED).format(a=gold).replace("{a}", gold), gold
    # Half of them are of tame parts, so that the symbolic parser has to read them.
    answer = wrong(rng, rng.randrange(1, 6), rng.choice((ATOMS, MILD)))
    form = rng.choice(
        ["<think> x </think> <answer> %s </answer>"] * 5 + ["<answer>%s</answer>", "<think>%s", "x\\boxed{%s}"]
    )
    return form.replace("%s", answer), gold


_TAG = re.compile("(</?(?:think|answer)>)")


def in_form(text: str) -> bool:
    """The form, told another way: between tags there is this, and no more."""
    match _TAG.split(text):
        case [before, "<think>", thought, "</think>", between, "<answer>", answer, "</answer>", after]:
            return not (before + between + after).strip() and bool(thought.strip() and answer.strip())
    return False


def rewards():
    grading = RewardsConfig(timeout_s=LIMIT_S, on_error=-1.0, workers=2)
    specs = {form: RewardSpec("r1jax.rewards.answers:accuracy", 1.0, {"extraction": form}) for form in FORMS}
    specs["countdown"] = RewardSpec("r1jax.rewards.expressions:countdown", 1.0, {"target": 48271, "use": "any"})
    specs["think_answer"] = RewardSpec("r1jax.rewards.format:think_answer", 1.0, {})
    specs["readable"] = RewardSpec("r1jax.rewards.format:readable", 1.0, {})
    specs["tag_count"] = RewardSpec("r1jax.rewards.format:tag_count", 1.0, {})
    return load_rewards(specs, grading)


def slowest_batch(count: int, size: int) -> float:
    """Grades hostile completions, none of which may be rewarded or fail; seconds of the slowest `size` of them."""
    rng = random.Random(0)
    cases = [hostile(rng) for _ in range(count)]
    seconds, slowest = 0.0, 0.0
    counts = dict.fromkeys(("graded", "not_parsed", "timed_out", "crashed"), 0)
    with rewards() as graders:
        score(graders, [("<answer>\\sqrt{2}</answer>", ROOT)] * 2)  # the workers have started
        for first in range(0, count, size):
            batch = cases[first : first + size]
            start = time.monotonic()
            scored = score(graders, batch)
            slowest = max(slowest, time.monotonic() - start)
            seconds += time.monotonic() - start
            check(batch, scored)
            for name in counts:
                counts[name] += int(scored.metrics[f"reward/answer/{name}"])
    print(f"\n{count} hostile completions, 8 rewards each: {seconds:.1f} s, {count / seconds:.0f} a second; "
          f"slowest batch of {size}: {slowest:.1f} s; accuracy: {counts}")  # fmt: skip
    return slowest


def score(graders, batch):
    n = len(batch)
    columns = {"answer": [gold for _, gold in batch], "task": ["t"] * n, "numbers": ["1 2 9"] * n}
    return graders(["?"] * n, [text for text, _ in batch], columns, [[0]] * n)


def check(batch, scored) -> None:
    for kind in ("errors", "timeouts", "crashes", "not_finite"):
        assert not any(value for name, value in scored.metrics.items() if name.endswith(f"/{kind}")), kind
    wrongly = [case[0][:200] for case, value in zip(batch, scored.by_name["answer"], strict=True) if value]
    assert not wrongly
    assert not scored.by_name["countdown"].any()
    for i, (text, gold) in enumerate(batch):
        if gold not in text:  # else it may stand where another form has its answer
            assert not any(scored.by_name[form][i] for form in FORMS), text[:200]
        if len(text) < 5000:
            assert scored.by_name["think_answer"][i] == in_form(text), text
    assert np.isin(scored.by_name["tag_count"], [0, 0.25, 0.5, 0.75, 1]).all()


def test_hostile_completions_few():
    assert slowest_batch(300, 100) < LIMIT_S


@pytest.mark.slow
def test_hostile_completions_five_thousand():
    assert slowest_batch(5000, 500) < LIMIT_S


def test_the_right_answer_is_rewarded():
    """Else the tests above would pass on graders that reject all."""
    with rewards() as graders:
        texts = [f"<think> x </think> <answer> {gold} </answer>" for gold in GOLDS]
        assert score(graders, list(zip(texts, GOLDS, strict=True))).by_name["answer"].tolist() == [1.0] * len(GOLDS)
        plain = [(text, NUMBER) for text in (f"\\boxed{{{NUMBER}}}", f"#### {NUMBER}", f"The answer is {NUMBER}.")]
        scored = score(graders, plain)
        assert [scored.by_name[form][i] for i, form in enumerate(FORMS[1:])] == [1.0] * 3
