"""The findings' arithmetic on records written by hand, whose figures can be worked out on paper."""

import json

import numpy as np
import pytest

from experiments.r1 import claims, findings, intervals, page, pictures, probes, records
from experiments.r1.claims import Row, Rule
from experiments.r1.records import ARITHMETIC, MissingError, Recipe


def problem(
    index, correct, *, question="What is 2 + 3?", tokens=None, answers=None, texts=(), language="en", task=None
):
    correct = list(map(float, correct))
    return {
        "task": task or ARITHMETIC,
        "index": index,
        "question": question,
        "answer": "5",
        "language": language,
        "correct": correct,
        "format": [1.0] * len(correct),
        "tokens": tokens or [10] * len(correct),
        "answers": answers or ["5" if right else "9" for right in correct],
        "completions": list(texts),
    }


def recipe(stages, **kwargs):
    problems = {}
    for stage, rows in stages.items():
        for row in rows:
            problems.setdefault(stage, {}).setdefault(row["task"], []).append(row)
    return Recipe("run", 0, problems, kwargs.pop("metrics", {}), **kwargs)


def by_name(rows):
    return {row.name: row for row in rows}


def test_the_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    measure = intervals.mean(values)
    half = 1.96 * values.std() / np.sqrt(400)
    assert measure.value == pytest.approx(values.mean(), abs=1e-12)
    assert (measure.high - measure.low) / 2 == pytest.approx(half, rel=0.06)
    assert (measure.high + measure.low) / 2 == pytest.approx(measure.value, abs=0.03)


def test_differences_are_paired_by_problem():
    """Problems differ much, the two stages by 0.1 on each: paired, nothing is uncertain."""
    before = np.random.default_rng(2).random(50)
    gain = intervals.difference(intervals.mean(before + 0.1), intervals.mean(before))
    assert gain.value == pytest.approx(0.1) and gain.low == pytest.approx(0.1) and gain.high == pytest.approx(0.1)
    apart = intervals.mean(before)
    assert apart.high - apart.low > 0.1


def test_ratios_medians_and_runs_together():
    assert intervals.ratio(intervals.mean([0.8, 0.4]), intervals.mean([0.3, 0.1])).value == pytest.approx(3.0)
    assert intervals.ratio(intervals.mean([1.0, 1.0]), intervals.mean([0.0, 0.0])).value == np.inf
    seconds = intervals.median([1.0] * 30 + [100.0])  # one step compiles
    assert (seconds.value, seconds.low, seconds.high) == (1.0, 1.0, 1.0)
    both = intervals.together([intervals.mean([0.0, 1.0]), intervals.mean([1.0, 1.0])])
    assert both.value == pytest.approx(0.75)
    # tokens of right completions: 3 + 5 of two, 10 of one
    assert intervals.pooled([8.0, 10.0], [2.0, 1.0]).value == pytest.approx(6.0)
    with pytest.raises(ValueError, match="there are 0 problems"):
        intervals.mean([])


def test_a_majority_ignores_completions_without_an_answer_and_the_earliest_of_equals_wins():
    assert claims.majority(problem(0, [0, 1, 1, 0], answers=[None, "5", "5", "9"])) == 1.0
    assert claims.majority(problem(0, [0, 1, 0, 1], answers=["9", "5", "9", "5"])) == 0.0
    assert claims.majority(problem(0, [0, 0], answers=[None, None])) == 0.0


@pytest.mark.parametrize(
    ("question", "count"),
    [("What is 7?", 0), ("Calcula 2 + 3", 1), ("Compute (2 + 3) * -4", 2), ("Solve 4 - -3 * (2 + 1)", 3)],
)
def test_operations_are_counted(question, count):
    assert claims.operations(question) == count


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (" <think> 2 + 3 = 5. </think> The answer is 5.", True),
        (" <think> 2 + 3 = 5. </think> <answer> 5 </answer>", False),
        (" <think> 2 + 3 = 5. </think>", False),
        (" The answer is 5.", False),
    ],
)
def test_what_is_readable_has_a_thought_and_a_summary_in_words(completion, expected):
    assert claims.is_readable(completion) is expected


def test_f1_several_fold():
    base = [problem(i, [i < 10, 0, 0, 0]) for i in range(40)]  # 10 of 160
    zero = [problem(i, [1, 1, i < 20, 0]) for i in range(40)]  # 100 of 160
    rows = by_name(claims.f1(recipe({"base": base, "zero": zero})))
    assert rows["base, pass@1"].measure.value == pytest.approx(10 / 160)
    assert rows["zero / base"].measure.value == pytest.approx(10.0)
    assert rows["zero / base"].rule.holds(rows["zero / base"].measure)
    doubled = by_name(claims.f1(recipe({"base": [problem(i, [1, 0]) for i in range(9)],
                                        "zero": [problem(i, [1, 1]) for i in range(9)]})))  # fmt: skip
    assert not doubled["zero / base"].rule.holds(doubled["zero / base"].measure)  # twice is not above twice


def test_f2_length_by_operations():
    easy, hard = "What is 2 + 3?", "What is 2 + 3 * 4?"
    base = [problem(0, [1, 0], question=easy, tokens=[10, 20]), problem(1, [1, 0], question=hard, tokens=[10, 30])]
    zero = [problem(0, [1, 1], question=easy, tokens=[15, 15]), problem(1, [1, 1], question=hard, tokens=[24, 26])]
    lengths = {"zero": [{"completion/mean_length": float(n)} for n in (10, 10, 11, 12, 13, 14, 18, 20)]}
    rows = by_name(claims.f2(recipe({"base": base, "zero": zero}, metrics=lengths)))
    assert rows["base, problems of 1 operations"].measure.value == 15.0
    assert rows["zero - base, problems of 2 or more"].measure.value == 5.0
    assert rows["zero - base, problems of 2 or more, right completions"].measure.value == 15.0  # 25 - 10
    assert rows["zero, last - first quarter"].measure.value == 9.0  # of 18, 20 and 10, 10


def test_f3_the_majority_beats_one():
    zero = [problem(i, [1, 1, 0], answers=["5", "5", str(i)]) for i in range(20)]
    rows = by_name(claims.f3(recipe({"zero": zero})))
    assert rows["zero, maj@3"].measure.value == 1.0
    assert rows["zero, maj@3 - pass@1"].measure.value == pytest.approx(1 / 3)


def test_f4_and_f5_read_the_completions():
    mixed = " <think> first we add the numbers. luego sumamos los números que quedan. </think> <answer> 5 </answer>"
    plain = " <think> first we add the numbers. then we add those that are left. </think> <answer> 5 </answer>"
    spoken = plain.replace("<answer> 5 </answer>", "The answer is 5.")
    stages = {name: [problem(i, [1, 1], texts=[text, text]) for i in range(8)] for name, text in (
        ("zero", mixed), ("zero_language", plain), ("cold_start", spoken), ("reasoning", spoken))}  # fmt: skip
    run = recipe(stages)
    rows = by_name(claims.f4(run))
    assert rows["zero, mixed completions"].measure.value == 1.0
    assert rows["zero_language, mixed completions"].measure.value == 0.0
    assert 0.3 < rows["zero, words in the question's language"].measure.value < 0.7
    assert all(row.rule.holds(row.measure) for row in rows.values() if row.rule)
    rows = by_name(claims.f5(run))
    assert rows["zero, readable form"].measure.value == 0.0
    assert rows["cold_start, readable form"].measure.value == 1.0


def test_f6_general_tasks_scores_and_greetings():
    def stage(right, greeting):
        rows = [problem(i, [1, 1]) for i in range(6)]
        for kind in ("facts", "translation"):
            rows += [problem(i, [right, right], task=f"general_{kind}:test") for i in range(6)]
        return rows + [problem(i, [], texts=[greeting], task="general_greeting:test") for i in range(6)]

    stages = {"reasoning": stage(0, " <think> hi </think> Hello."), "general": stage(1, " Hello!")}
    scores = {"reasoning": {"helpful": np.full(6, -1.0), "harmless": np.full(6, 0.5)},
              "general": {"helpful": np.full(6, 2.0), "harmless": np.full(6, 0.9)}}  # fmt: skip
    rows = by_name(claims.f6(recipe(stages, scores=scores)))
    assert rows["general - reasoning, facts"].measure.value == 1.0
    assert rows["general - reasoning, helpful"].measure.value == 3.0
    assert rows["reasoning, greetings answered without a thought"].measure.value == 0.0
    assert rows["general, greetings answered without a thought"].measure.value == 1.0
    with pytest.raises(MissingError, match="stage reasoning has no scores of the reward model helpful"):
        claims.f6(recipe(stages))


def test_f7_f8_and_f9():
    right = {"student": [1, 0, 0, 0], "distilled": [1, 1, 1, 0], "alone": [1, 1, 0, 0]}
    run = recipe({name: [problem(i, own) for i in range(5)] for name, own in right.items()})
    assert by_name(claims.f7(run))["distilled - alone"].measure.value == pytest.approx(0.25)

    curve = {4: np.zeros((5, 2)), 8: np.ones((5, 2))}
    rows = by_name(claims.f8(recipe({}, budgets={"zero": curve, "general": curve})))
    assert rows["zero, 8 - 4 tokens"].measure.value == 1.0

    seconds = {"zero": [{"time/update_s": 1.0}] * 9, "ppo": [{"time/update_s": 2.0}] * 9}
    stages = {name: [problem(i, [1, 0]) for i in range(5)] for name in ("zero", "ppo")}
    weights = {"zero": {"params": 100, "optimizer": 200}, "ppo": {"params": 100, "optimizer": 200, "critic": 300}}
    rows = by_name(claims.f9(recipe(stages, metrics=seconds, state_bytes=weights)))
    assert rows["GRPO / PPO, seconds of an update"].measure.value == 0.5
    assert rows["GRPO / PPO, training state"].measure.value == 0.5


def test_stages_are_compared_on_the_problems_they_share():
    run = recipe({"a": [problem(i, [1]) for i in (0, 1, 2)], "b": [problem(i, [0]) for i in (2, 1)]})
    assert [[p["index"] for p in own] for own in run.paired(("a", "b"))] == [[1, 2], [1, 2]]
    with pytest.raises(MissingError, match="run: stage c has no evaluation of arithmetic:test"):
        run.paired(("a", "c"))


def test_a_rule_wants_the_whole_interval_in_every_run():
    sure, unsure = intervals.mean([0.5] * 10), intervals.mean([1.0] * 5 + [0.0] * 5)
    rule = Rule("above", 0.4)
    assert rule.holds(sure) and not rule.holds(unsure)
    assert Rule("below", 0.6).holds(sure) and not Rule("below", 0.6).holds(unsure)
    one, other = (Row("x", "share", measure, rule, True) for measure in (sure, unsure))
    assert page.verdict(page.Result("F0", "t", ((one,), (one,)), "")) == "reproduced"
    assert page.verdict(page.Result("F0", "t", ((one,), (other,)), "")) == "not reproduced"
    assert page.verdict(page.Result("F0", "t", (), "stage b is missing")) == "not measured"


def test_figures_are_shown_with_their_unit_and_interval():
    measure = intervals.Measure(0.897, np.linspace(0.88, 0.92, intervals.RESAMPLINGS))
    assert page.shown(measure, "share") == "89.7% [88.1, 91.9]"
    assert page.shown(intervals.exact(3 * 2**20), "bytes") == "3.0 MiB"
    assert page.shown(intervals.exact(0.05), "points") == "+5.0 points"
    assert page.shown(intervals.exact(float("nan")), "tokens") == "none"
    assert page.rule_text(Row("x", "points", measure, Rule("above", -0.03))) == "above -3.0 points"


def test_the_page_is_written_from_the_runs_files(tmp_path, capsys, monkeypatch):
    for seed in (0, 1):
        for name, right in (("base", [1, 0, 0, 0]), ("zero", [1, 1, 1, 0])):
            stage = tmp_path / f"r1-{seed}" / name
            stage.mkdir(parents=True)
            (stage / "config.json").write_text(json.dumps({"seed": seed}))
            lines = [json.dumps(problem(i, right)) + "\n" for i in range(6)]
            (stage / "evaluation.jsonl").write_text("".join(lines))
            (stage / "metrics.jsonl").write_text(json.dumps({"completion/mean_length": 9.0 + seed}) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["findings.py", "r1-0", "r1-1", "--write=docs/findings.md"])
    findings.main()
    printed, written = capsys.readouterr().out, (tmp_path / "docs" / "findings.md").read_text()
    assert "F1  RL alone lifts accuracy several-fold: reproduced" in printed
    assert (
        "| F1 RL alone lifts accuracy several-fold | zero / base | 3.00× | 3.00× | 3.00× | **reproduced** |" in written
    )
    assert "`python experiments/r1/findings.py r1-0 r1-1 --only=F1`" in written
    assert "F7 The distilled student beats the same student under RL alone | | | | | not measured |" in written
    assert "r1-0: stage student has no evaluation of arithmetic:test" in written
    assert "![Accuracy stage by stage](findings/ladder.svg)" in written
    svg = (tmp_path / "docs" / "findings" / "ladder.svg").read_text()
    assert svg == pictures.ladder([records.read(tmp_path / f"r1-{seed}") for seed in (0, 1)])  # nothing of the clock
    assert not (tmp_path / "docs" / "findings" / "budget.svg").exists()
    monkeypatch.setattr("sys.argv", ["findings.py", "r1-0", "--only=F10"])
    with pytest.raises(SystemExit):
        findings.main()
    assert "--only names 'F10'; expected some of F1,F2" in capsys.readouterr().err


def test_notes_belong_to_their_finding(tmp_path):
    path = tmp_path / "notes.md"
    path.write_text("A preface.\n\n## F2\n\nTried longer limits.\n\n## F9\n\nOne run beside other work.\n")
    assert findings.read_notes(path) == {"F2": "Tried longer limits.", "F9": "One run beside other work."}
    assert findings.read_notes(tmp_path / "none.md") == {}


def test_scores_are_the_mean_of_a_requests_completions():
    advice = [problem(0, [], question="a?", texts=[" x", " <think> t </think> y"], task=probes.ADVICE),
              problem(1, [], question="b?", texts=[" z"], task=probes.ADVICE)]  # fmt: skip
    asked = []

    def scorer(questions, replies):
        asked.append((list(questions), list(replies)))
        return [float(len(asked) + i) for i in range(len(replies))]

    got = probes.scores(recipe({"general": advice}), "general", {"helpful": scorer})
    assert asked == [(["a?", "a?", "b?"], ["x", "y", "z"])]  # of a response its summary
    np.testing.assert_allclose(got["helpful"], [1.5, 3.0])
