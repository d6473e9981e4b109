"""Accuracy: real gold answers, pairs decided by hand, hostile text, reasoning-gym's scorers."""

import json
import os
import random
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from r1jax.rewards.answers import COUNTS, accuracy, check_accuracy, check_gold
from r1jax.rewards.numbers import canonical, number, words
from r1jax.rewards.workers import WorkerPool
from tests.near_misses import near_misses, near_numbers

SOURCE = Path(os.environ.get("R1JAX_SOURCE_DIR", Path(__file__).resolve().parents[1] / ".." / "shared" / "data"))

EQUAL = [
    ("14", "14"), ("14", "$14$"), ("14", "\\boxed{14}"), ("14", "\\(14\\)"), ("14", "**14**"), ("14", " 14. "),
    ("14", "14.0"), ("14", "x = 14"), ("14", "+14"), ("-3", "−3"), ("1000", "1,000"), ("1,234,567", "1234567"),
    ("18", "$18"), ("18", "\\$18.00"), ("18", "18 dollars"), ("18", "18 \\text{ eggs}"), ("2.5", "5/2"), ("-7", "-$7"),
    ("0.5", "1/2"), ("1/2", "0.5"), ("0.5", "\\frac{1}{2}"), ("\\frac12", "\\dfrac{1}{2}"), ("1\\frac{4}{5}", "1.8"),
    ("1\\frac{4}{5}", "1 4/5"), ("\\frac{-3}{4}", "-\\frac{3}{4}"), ("50\\%", "50"), ("50", "50%"), ("0.5", "50%"),
    ("90^\\circ", "90"), ("90^\\circ", "90 degrees"), ("52_8", "52_{8}"), ("6.72e-5", ".0000672"),
    ("1.5 \\times 10^{6}", "1500000"), ("11,\\! 111,\\! 100", "11111100"), ("864 \\mbox{ inches}^2", "864 inches^2"),
    ("\\text{Evelyn}", "Evelyn"), ("\\text{(C)}", "C"), ("C", "(C)"), ("north east", "North  East"), ("Yes", "yes."),
]  # fmt: skip

EQUAL_SYMBOLIC = [
    ("2\\sqrt{2}", "\\sqrt{8}"), ("(3, \\frac{\\pi}{2})", "\\left( 3, \\pi/2 \\right)"), ("\\{1,2\\}", "\\{2,1\\}"),
    ("1,-2", "-2, 1"), ("2k+2", "2(k+1)"), ("1 \\pm \\sqrt{19}", "1+\\sqrt{19}, 1-\\sqrt{19}"), ("x=5", "5"),
    ("x \\in [-2,7]", "[-2,7]"), ("\\frac{\\sqrt{3}}{3}", "1/\\sqrt{3}"), ("6-5i", "6 - 5i"), ("y=2x+3", "y = 3 + 2x"),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"), ("\\pi", "3.141593"),
]  # fmt: skip

DIFFERENT = [
    ("14", "15"), ("14", "-14"), ("14", "14.1"), ("14", "140"), ("1/3", "0.333333"), ("14", "fourteen"), ("14", "1 4"),
    ("14", "2 + 3 * 4"), ("14", "2+12"), ("14", "28/2"), ("14", "\\frac{28}{2}"), ("14", "2 \\cdot 7"), ("14", "14/0"),
    ("14", "13 or 14"), ("14", "13, 14"), ("14", "\\{14\\}"), ("14", "13=14"), ("14", "[14]"), ("14", "14!"),
    ("18", "18 thousand"), ("18", "18k"), ("18", "18 hundred"), ("18", "1,8"), ("1000", "1,00,0"), ("18", "$18 euros"),
    ("5 \\text{ cm}", "5 m"), ("\\$36", "36 cents"), ("52_8", "52_9"), ("0.5", "50"), ("50", "0.5"), ("4", "१४"),
    ("\\text{east}", "seat"), ("\\text{(C)}", "(B)"), ("Yes", "No"), ("\\text{Evelyn}", "Evelyn or Navin"),
    (".0000672", "0.0000673"), ("90^\\circ", "90 radians"), ("2", "²"), ("", "14"), ("", ""), ("14", "9**9**9"),
    ("14", "1e9999999"), ("1", "1" * 600), ("9" * 600, "9" * 600), ("{{{", "{{{{"),
]  # fmt: skip

DIFFERENT_SYMBOLIC = [
    ("2\\sqrt{2}", "\\sqrt{2}"), ("(1,2)", "(2,1)"), ("(1,2)", "2,1"), ("(1,2)", "\\{2,1\\}"), ("1,-2", "(1,-2)"),
    ("(3,4]", "[3,4]"), ("(3,4]", "(3,4)"), ("1,-2", "1"), ("\\sqrt{2}", "\\sqrt{2} \\text{ or } 5"), ("x=5", "y=5"),
    ("\\sqrt{2}", "\\sqrt{3} = \\sqrt{2}"), ("\\sqrt{2}", "$\\sqrt{3}$ $\\sqrt{2}$"), ("p-q", "q-p"), ("\\pi", "3.14"),
    ("\\frac{\\pi}{10^7}", "0.0000003"), ("-\\frac{\\pi}{6}", "\\frac{\\pi}{6}"), ("\\sqrt{2}", "the root of two"),
    ("6-5i", "6+5i"), ("\\sqrt{51}", "1, 2, 3, \\sqrt{51}"),
]  # fmt: skip

HOSTILE = [
    "9**9**9", "9^{9^{9}}", "9^{999999999}", "100000000!", "1" * 1_000_000, "<answer>" * 9, "{" * 500, "(" * 500,
    "(" * 200 + "1" + ")" * 200, "\\frac{" * 80 + "1" + "}" * 80, "\\sqrt{" * 70 + "2" + "}" * 70, "1\0", "\0" * 400,
    "</think> 2", "<think>2</think>", "\\sum_{n=1}^{10^9} n", "__import__('os').abort()", "\\input{/etc/passwd}",
    "\ud800", "2" + "\u0301" * 400, "𝟚", "{" * 16 + "}" * 16, "\\left" * 100, "$" * 400, "\\boxed{" * 60, "=" * 400,
    "1," * 250, "-" * 500 + "2", "\\text{" * 90, "^" * 500, "_" * 500, "/" * 500, "%" * 500, "." * 500, "\\" * 500,
]  # fmt: skip


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(2, 5.0, 2048) as pool:
        yield pool


def wrap(answer: str) -> str:
    return f"<think> x </think> <answer> {answer} </answer>"


def grade(golds, candidates, pool=None, task="math", **columns):
    return accuracy(
        prompts=["?"] * len(golds), completions=[wrap(c) for c in candidates], answer=list(golds),
        task=[task] * len(golds), pool=pool, **columns,
    )  # fmt: skip


def rows(name: str) -> list[dict]:
    path = SOURCE / name
    if not path.exists():
        pytest.skip(f"{path} is absent; set R1JAX_SOURCE_DIR to the folder of raw datasets")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(("split", "size"), [("train", 7473), ("test", 1319)])
def test_gsm8k_gold_is_right_and_other_numbers_wrong(split, size):
    golds = [row["answer"].rsplit("#### ", 1)[1] for row in rows(f"gsm8k/{split}.jsonl")]
    assert len(golds) == size and check_gold(golds, ["gsm8k"] * size) == []
    assert grade(golds, golds, task="gsm8k") == [1.0] * size
    others = [str(int(gold.replace(",", "")) + (-1, 1, 10)[i % 3]) for i, gold in enumerate(golds[:1000])]
    assert grade(golds[:1000], others, task="gsm8k") == [0.0] * 1000


def test_math500_gold_equals_itself_and_only_itself(pool):
    golds = [row["answer"] for row in rows("math500/test.jsonl")]
    assert check_gold(golds, ["math500"] * 500, pool) == []
    assert grade(golds, golds, pool) == [1.0] * 500
    # Written apart, so that equal spelling does not decide.
    spaced = ["\\displaystyle " + gold.replace("\\frac", "\\dfrac") for gold in golds]
    assert grade(golds, spaced, pool) == [1.0] * 500
    distinct = list(dict.fromkeys(canonical(g).replace(" ", "") for g in golds if number(canonical(g)) is None))
    shifted = distinct[1:] + distinct[:1]
    assert len(distinct) > 80 and grade(distinct, shifted, pool) == [0.0] * len(distinct)


def test_worked_solutions_end_in_their_gold_answer(pool):
    """All but one: its solution boxes the answer twice, in two spellings, and of several boxes none counts."""
    for split in ("train", "test"):
        texts = [row["answer"] for row in rows(f"gsm8k/{split}.jsonl")]
        golds = [text.rsplit("#### ", 1)[1] for text in texts]
        assert accuracy(texts, texts, golds, ["gsm8k"] * len(texts), extraction="hashes") == [1.0] * len(texts)
    problems = rows("math500/test.jsonl")
    golds, texts = [row["answer"] for row in problems], [row["solution"] for row in problems]
    scores = accuracy(texts, texts, golds, ["math500"] * 500, extraction={"math500": "boxed"}, pool=pool)
    print("MATH-500 solutions not graded right:", [g for g, score in zip(golds, scores, strict=True) if score != 1])
    assert [i for i, score in enumerate(scores) if score != 1] == [golds.index("\\frac{639}{40}")]
    assert (
        "$d = 15\\frac{975}{1000} = \\boxed{15\\frac{39}{40}},$ or $\\boxed{\\frac{639}{40}}$" in texts[scores.index(0)]
    )


@pytest.mark.parametrize("name", ["gsm8k", "math500"])
def test_near_misses_score_nothing(name, pool):
    if name == "gsm8k":
        golds = [row["answer"].rsplit("#### ", 1)[1] for row in rows("gsm8k/test.jsonl")]
        made = [(gold, kind, text) for gold in golds for kind, text in near_numbers(gold)]
    else:
        golds = [row["answer"] for row in rows("math500/test.jsonl")]
        made = [(gold, kind, text) for gold in golds for kind, text in near_misses(gold)]
    rare = [case for case in made if case[1] in ("swapped", "unit") and name == "math500"]
    cases = (rare + random.Random(0).sample([case for case in made if case not in rare], 500))[:500]
    print(name, Counter(kind for _, kind, _ in cases))
    assert {kind for _, kind, _ in cases} >= {"sign", "off by one", "swapped", "unit"}
    scores = grade([gold for gold, _, _ in cases], [text for _, _, text in cases], pool, name)
    assert [case for case, score in zip(cases, scores, strict=True) if score != 0] == []


def test_pairs_that_need_no_worker():
    assert [pair for pair, score in zip(EQUAL, grade(*zip(*EQUAL, strict=True)), strict=True) if score != 1] == []
    scores = grade(*zip(*DIFFERENT, strict=True))
    assert [pair for pair, score in zip(DIFFERENT, scores, strict=True) if score != 0] == []


@pytest.mark.parametrize(("pairs", "expected"), [(EQUAL_SYMBOLIC, 1.0), (DIFFERENT_SYMBOLIC, 0.0)])
def test_symbolic_pairs(pairs, expected, pool):
    scores = grade(*zip(*pairs, strict=True), pool)
    assert [pair for pair, score in zip(pairs, scores, strict=True) if score != expected] == []


def test_from_another_thread_and_without_a_pool():
    scores = []
    thread = threading.Thread(target=lambda: scores.extend(grade(["2\\sqrt{2}"] * 2, ["\\sqrt{8}", "\\sqrt{7}"])))
    thread.start()
    thread.join(60)
    assert scores == [1.0, 0.0]


@pytest.mark.parametrize("gold", ["2", "\\sqrt{2}"])
def test_hostile_answers_score_nothing_quickly(gold, pool):
    grade(["\\sqrt{3}"], ["\\sqrt{5}"], pool)  # the workers have started
    counts: dict[str, float] = {}
    start = time.monotonic()
    scores = grade([gold] * len(HOSTILE), HOSTILE, pool, report=counts.__setitem__)
    assert [text[:60] for text, score in zip(HOSTILE, scores, strict=True) if score] == []
    assert time.monotonic() - start < 8
    assert sum(counts.values()) == len(HOSTILE) and set(counts) == set(COUNTS)


def test_hostile_completions_score_nothing(pool):
    texts = ["", "2", wrap("2") + " done", wrap("2") + wrap("2"), "<think><answer>2</answer></think>", "<answer>2"]
    texts += ["<think> <answer>2</answer>", "<answer><answer>2</answer></answer>", "2</answer>", "\0" * 1_000_000]
    texts += ["<think>" * 200_000 + "<answer>2</answer>", "<answer>1</answer><answer>2</answer>"]
    n = len(texts)
    counts: dict[str, float] = {}
    scores = accuracy([""] * n, texts, ["2"] * n, ["t"] * n, pool=pool, report=counts.__setitem__)
    assert scores == [0.0] * n and counts["not_parsed"] == n


def test_counts_tell_apart_what_happened(pool):
    counts: dict[str, float] = {}
    with WorkerPool(1, 0.5, 2048) as hasty:
        candidates = ["2", "3", "two", "\\sqrt{2", "100000000!"]
        scores = grade(["2", "2", "2", "\\sqrt{2}", "n!"], candidates, hasty, report=counts.__setitem__)
    assert scores == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert counts == {"graded": 2.0, "not_parsed": 2.0, "timed_out": 1.0, "crashed": 0.0}


def test_gold_that_cannot_be_read_is_reported_and_never_scored(pool):
    golds = ["14", "\\frac{1}{", "", "x" * 600, "\\text{east}", "\\sqrt{2}", "}{", "countdown's own affair ]["]
    tasks = ["t"] * 7 + ["reasoning_gym:countdown"]
    assert check_gold(golds, tasks, pool) == [1, 2, 3, 6]
    assert grade(golds[:4], golds[:4], pool) == [1.0, 0.0, 0.0, 0.0]
    warning = check_accuracy(golds, tasks, "answer", pool)
    assert len(warning) == 1 and "4 of 8" in warning[0] and "record 1, '\\\\frac{1}{'" in warning[0]
    assert check_accuracy(["14", "\\text{10:30 AM}", "May 3, 2021", "北京"], ["t"] * 4, "answer", pool) == []
    with pytest.raises(ValueError, match=r"extraction is 'bxed'.*did you mean 'boxed'"):
        check_accuracy(["14"], ["t"], "bxed", pool)
    with pytest.raises(ValueError, match=r"no form for the task 't'"):
        check_accuracy(["14"], ["t"], {"gsm8k": "hashes"}, pool)


def test_reasoning_gym_scorers(pool):
    entry = {"question": "?", "answer": "94*4 - 61 - 6", "metadata": {"numbers": [6, 61, 94, 4], "target": 309}}
    answers = ["94*4 - 61 - 6", "94*4-(61+6)", "309", "94*4-61-6**1", "94*4//1-61-6", "__import__('os').abort()"]
    answers += ["9**9**9", "(" * 300, "94*4-61"]
    n = len(answers)
    scores = grade([""] * n, answers, pool, "reasoning_gym:countdown", metadata=[json.dumps(entry)] * n)
    assert scores[:2] == [1.0, 1.0] and scores[3:8] == [0.0] * 5
    assert all(0 <= scores[i] < 0.1 for i in (2, 8))
    seven = {"question": "?", "answer": "", "metadata": {"numbers": [7, 2], "target": 3}}
    assert grade([""], ["7//2"], pool, "reasoning_gym:countdown", metadata=[json.dumps(seven)]) == [0.0]


def test_reasoning_gym_answers_are_not_run_as_code(pool, tmp_path):
    mark = tmp_path / "ran"
    code = f"[open('{mark}','w').write('x')]"
    spiral = {"question": "?", "answer": "1 2", "metadata": {"matrix": [[1, 2]], "solution": [1, 2]}}
    entries = {"spiral_matrix": spiral, "simple_integration": {"metadata": {"variable": "x", "integrand": "x"}}}
    for name, entry in entries.items():
        task = f"reasoning_gym:{name}"
        assert grade([""], [code], pool, task, metadata=[json.dumps({"answer": "", **entry})]) == [0.0]
    assert not mark.exists()
    assert grade([""], ["[1, 2]"], pool, "reasoning_gym:spiral_matrix", metadata=[json.dumps(spiral)])[0] > 0


def test_reasoning_gym_needs_its_entry():
    with pytest.raises(ValueError, match="metadata"):
        grade(["1"], ["1"], None, "reasoning_gym:leg_counting")


def test_readings_by_hand():
    assert number("1 4/5").value * 5 == 9 and number("28/2").unevaluated and not number("7/2").unevaluated
    assert number("$5").unit == number("5 dollars").unit == "dollar" and number("5 or 6") is None
    assert canonical("$\\boxed{\\dfrac{1}{2}}$.") == "\\frac{1}{2}"
    assert (
        words("\\text{(C)}") == words("C") == "c"
        and words("xy") is None
        and words("2xyz") is None
        and words("5 and 7") is None
    )
