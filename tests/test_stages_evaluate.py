"""Evaluation: what is sampled is what is graded, by its own grader, and what is kept of it."""

import dataclasses
import json

import numpy as np
import pytest
import smoke_run
from test_rewards_sandbox import needs_sandbox

from r1jax.config import TaskSpec
from r1jax.data.tokenizer import Tokenizer
from r1jax.stages.evaluate import Evaluator, load_tasks
from r1jax.stages.tables import table
from r1jax.types import Rollouts


class Scripted:
    """An engine that says of a question what a table has for it, sample after sample."""

    def __init__(self, tokenizer, replies, template="User: {}. Assistant:"):
        self.tokenizer, self.replies, self.template, self.batches = tokenizer, replies, template, []

    def generate(self, params, prompts, seed_B, **how):
        self.batches.append((len(prompts), len(seed_B), how))
        samples = len(seed_B) // len(prompts)
        rows = []
        for b in range(len(seed_B)):
            prompt = self.tokenizer.decode(prompts[b // samples])
            said = next(said for asked, said in self.replies.items() if self.template.format(asked) in prompt)
            rows.append(self.tokenizer.encode(said[b % samples % len(said)]))
        tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
        for row, ids in zip(tokens, rows, strict=True):
            row[: len(ids)] = ids
        return Rollouts(None, None, tokens, np.array([len(ids) for ids in rows]), None, None)


def in_form(answer):
    return f" <think> t </think> <answer> {answer} </answer>"


@pytest.mark.parametrize("limit", [0, 5])
def test_every_problem_is_graded_with_its_own_answer(tmp_path, limit):
    stage = smoke_run.stage("zero")
    tokenizer = Tokenizer.load(smoke_run.finished() / "base")
    spec = TaskSpec("arithmetic:test", {"train_size": 30, "test_size": 9})
    config = dataclasses.replace(stage.evaluation, tasks={"a": spec}, batch=4)
    (source,) = load_tasks(config, stage.data).values()
    pairs = [(record["question"], int(record["answer"])) for record in source]
    engine = Scripted(tokenizer, {question: [in_form(n), in_form(n + 1)] for question, n in pairs})
    evaluator = Evaluator(
        config, stage.data, stage.grading, template="r1_zero", tokenizer=tokenizer, engine=engine, context=320, seed=0
    )
    record = tmp_path / "evaluation.jsonl"
    record.write_text("of an evaluation that was killed")
    result = evaluator(None, samples=6, limit=limit, progress=False, record=record)
    evaluator.close()
    figures = result["arithmetic:test"]
    assert figures["n"] == (limit or 9)
    assert figures["pass@1"] == pytest.approx(1 / 2) and figures["pass@6"] == figures["maj@6"] == 1.0
    assert figures["format"] == 1.0 and 5 < figures["mean_tokens"] < 64
    assert {batch[:2] for batch in engine.batches} == {(4, 24)}  # the last batch has the shape of the others
    assert engine.batches[0][2] == {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_tokens": 32}
    rows = smoke_run.rows(record)
    assert [(row["task"], row["index"]) for row in rows] == [("arithmetic:test", i) for i in range(figures["n"])]
    for i, row in enumerate(rows):
        right = source[i]["answer"]
        wrong = str(int(right) + 1)
        assert row["question"] == source[i]["question"] and row["language"] == source[i]["language"]
        assert row["answer"] == right and row["answers"] == [right, wrong] * 3
        assert row["correct"] == [1.0, 0.0] * 3 and row["format"] == [1.0] * 6
        assert row["completions"] == [in_form(right), in_form(wrong)] * 2
    lengths = [n for row in rows for n in row["tokens"]]
    assert len(lengths) == 6 * len(rows) and np.mean(lengths) == figures["mean_tokens"]


def evaluated(tmp_path, records, replies, template, samples):
    """The figures of records in a JSONL file, and the lines that are kept."""
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    stage = smoke_run.stage("zero")
    config = dataclasses.replace(
        stage.evaluation, tasks={"a": TaskSpec(f"jsonl:{tmp_path / 'mine.jsonl'}", {})}, batch=4
    )
    tokenizer = Tokenizer.load(smoke_run.finished() / "base")
    evaluator = Evaluator(
        config, stage.data, stage.grading, template=template, tokenizer=tokenizer,
        engine=Scripted(tokenizer, replies, "User: {}"), context=2000, seed=0,
    )  # fmt: skip
    try:
        figures = evaluator(None, samples=samples, limit=0, progress=False, record=tmp_path / "evaluation.jsonl")
    finally:
        evaluator.close()
    return next(iter(figures.values())), smoke_run.rows(tmp_path / "evaluation.jsonl")


@needs_sandbox
def test_programs_are_run_and_answers_compared(tmp_path):
    """One file with a problem of each kind; the program that is right is of no use to a grader of answers."""
    records = [
        {"question": "Add.", "answer": "", "task": "code", "cases": json.dumps([{"stdin": "2 3", "stdout": "5"}])},
        {"question": "Square.", "answer": "", "task": "code", "tests": json.dumps(["assert square(3) == 9"])},
        {"question": "Count.", "answer": "5", "task": "sums"},
    ]
    add = "print(sum(map(int, input().split())))"
    replies = {
        "Add.": [f"<think> t </think> So:\n```python\n{add}\n```", "<think> t </think> The answer is 5."],
        "Square.": ["```python\ndef square(x): return x * x\n```", "```python\ndef square(x): return 3 * x * x\n```"],
        "Count.": ["<think> t </think> The answer is 5.", f"```python\n{add}\n```"],
    }
    figures, rows = evaluated(tmp_path, records, replies, "r1", samples=2)
    assert [row["correct"] for row in rows] == [[1.0, 0.0]] * 3
    assert (figures["pass@1"], figures["pass@2"], figures["maj@2"]) == (0.5, 1.0, 1.0)
    assert rows[0]["answers"] == [f"{add}\n", None] and rows[2]["answers"][0] == "5."


@needs_sandbox
def test_tests_that_cannot_be_read_are_refused_before_anything_is_sampled(tmp_path):
    records = [{"question": "Add.", "answer": "", "task": "code", "tests": '["print(1)"]'}]
    with pytest.raises(ValueError, match="print"):
        evaluated(tmp_path, records, {}, "r1", samples=1)


def test_free_text_has_no_accuracy(tmp_path):
    """Of the figures of general requests, those that have an answer count."""
    records = [
        {"question": "Hi!", "answer": "Hello!", "task": "general_greeting"},
        {"question": "The capital of Peru?", "answer": "Lima", "task": "general_facts"},
    ]
    replies = {"Hi!": ["Hello!"], "The capital of Peru?": ["The answer is Lima.", "The answer is Quito."]}
    figures, rows = evaluated(tmp_path, records, replies, "r1", samples=2)
    assert (figures["n"], figures["pass@1"], figures["maj@2"], figures["format"]) == (2, 0.5, 1.0, 0.0)
    assert [row["correct"] for row in rows] == [[], [1.0, 0.0]] and rows[0]["completions"] == ["Hello!"] * 2
    figures, _ = evaluated(tmp_path, records[:1], replies, "r1", samples=2)
    assert (figures["n"], figures["pass@1"], figures["pass@2"], figures["maj@2"]) == (1, None, None, None)
    assert table({"a": {"general": figures}}).split().count("-") == 3


def test_kinds_of_general_requests_are_evaluated_alone():
    stage = smoke_run.stage("zero")
    specs = {name: TaskSpec(name, {"test_size": 12}) for name in ("general_facts:test", "general_greeting")}
    sources = load_tasks(dataclasses.replace(stage.evaluation, tasks=specs), stage.data)
    assert list(sources) == ["general_facts:test", "general_greeting:test"]
    for label, source in sources.items():
        assert len(source) == 12 and {record["task"] for record in source} == {label.partition(":")[0]}


def test_tasks_are_named_once_and_known():
    stage = smoke_run.stage("zero")
    twice = {"a": TaskSpec("arithmetic", {}), "b": TaskSpec("arithmetic:test", {})}
    for specs, message in ((twice, "'arithmetic:test' twice"), ({"a": TaskSpec("arithmetik", {})}, "did you mean")):
        with pytest.raises(ValueError, match=message):
            load_tasks(dataclasses.replace(stage.evaluation, tasks=specs), stage.data)


def test_every_so_often_and_at_the_end():
    """Every 2 of 4 steps: once on the way, once at the end."""
    rows = smoke_run.rows(smoke_run.finished() / "zero" / "evaluations.jsonl")
    assert [(row["step"], row["task"], row["n"]) for row in rows] == [
        (2, "arithmetic:test", 8),
        (4, "arithmetic:test", 8),
    ]


@pytest.mark.parametrize("stage", ["base", "zero"])
def test_a_stage_keeps_its_final_evaluation_problem_by_problem(stage):
    """The figures of its result follow from the lines."""
    rows = smoke_run.rows(smoke_run.finished() / stage / "evaluation.jsonl")
    how = smoke_run.stage(stage).evaluation
    (figures,) = json.loads((smoke_run.finished() / stage / "result.json").read_text()).values()
    assert len(rows) == figures["n"] and {row["task"] for row in rows} == {"arithmetic:test"}
    for name, key in (("pass@1", "correct"), ("format", "format"), ("mean_tokens", "tokens")):
        assert all(len(row[key]) == how.samples for row in rows)
        assert np.mean([row[key] for row in rows]) == pytest.approx(figures[name])
    assert all(len(row["completions"]) == min(how.samples, 4) for row in rows)
