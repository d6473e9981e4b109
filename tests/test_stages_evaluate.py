"""Evaluation: the figures by hand, and that what is sampled is what is graded."""

import dataclasses
import json

import numpy as np
import pytest
import smoke_run

from r1jax.config import RewardsConfig, TaskSpec
from r1jax.data.tokenizer import Tokenizer
from r1jax.rewards.compose import load_rewards
from r1jax.stages.evaluate import Evaluator, graders, load_tasks, table
from r1jax.stages.graded import Graded, summary
from r1jax.types import Rollouts


def graded(correct, answers):
    correct_MK = np.array(correct, np.float32)
    format_MK = np.zeros_like(correct_MK)
    format_MK[0] = 1.0
    return Graded(correct_MK, format_MK, np.full(correct_MK.shape, 7, np.int32), answers, [])


def test_figures_by_hand():
    """Four problems, four samples each.

    1: the answers 14 14 20 and none: 2 of 4 right, the majority (14) right.
    2: 5 9 9 9 with 5 right: 1 of 4, a sample right, the majority wrong.
    3: none read: all wrong, no majority.
    4: 1 2 3 4 with 1 right: a tie, which the earliest wins: right.
    """
    figures = summary(
        graded(
            [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]],
            [["14", "14", "20", None], ["5", "9", "9", "9"], [None] * 4, ["1", "2", "3", "4"]],
        ),
        4,
    )
    assert figures == {
        "n": 4, "pass@1": 4 / 16, "pass@4": 3 / 4, "maj@4": 2 / 4, "format": 1 / 4, "mean_tokens": 7.0
    }  # fmt: skip
    assert list(figures) == ["n", "pass@1", "pass@4", "maj@4", "format", "mean_tokens"]


def test_the_majority_is_looked_up_where_it_was_given():
    """The vote is over answers as written; a wrong sample before it does not lend its grade."""
    assert summary(graded([[0, 1, 1]], [["3", "14", "14"]]), 3)["maj@3"] == 1.0
    assert summary(graded([[1, 0, 0]], [["14", "3", "3"]]), 3)["maj@3"] == 0.0


def test_partial_credit_counts_in_the_mean_and_is_not_a_pass():
    figures = summary(graded([[0.5, 0.5], [1.0, 0.0]], [["a", "b"], ["a", "b"]]), 2)
    assert figures["pass@1"] == 0.5 and figures["pass@2"] == 0.5


def test_one_sample_has_the_keys_of_one():
    figures = summary(graded([[0.5], [1.0]], [["a"], ["b"]]), 1)
    assert figures == {"n": 2, "pass@1": 0.75, "maj@1": 0.75, "format": 0.5, "mean_tokens": 7.0}


def test_table_has_a_line_a_task():
    text = table({"base": {"a:test": {"n": 3, "pass@1": 0.5, "mean_tokens": 9.25}}, "zero": {"a:test": {"n": 3}}})
    assert [line.split() for line in text.splitlines() if "-" * 9 not in line] == [
        ["stage", "task", "n", "pass@1", "mean_tokens"],
        ["base", "a:test", "3", "50.0%", "9.2"],
        ["zero", "a:test", "3", "-", "-"],
    ]


class Scripted:
    """An engine that answers from a table: sample k of a problem is right where k is even."""

    def __init__(self, tokenizer, answers):
        self.tokenizer, self.answers, self.batches = tokenizer, answers, []

    def generate(self, params, prompts, seed_B, **how):
        self.batches.append((len(prompts), len(seed_B), how))
        samples = len(seed_B) // len(prompts)
        length = 64
        tokens = np.zeros((len(seed_B), length), np.int32)
        length_B = np.zeros(len(seed_B), np.int32)
        for b in range(len(seed_B)):
            prompt = self.tokenizer.decode(prompts[b // samples])
            answer = next(value for question, value in self.answers.items() if f"User: {question}." in prompt)
            wrong = (b % samples) % 2
            ids = self.tokenizer.encode(f" <think> t </think> <answer> {int(answer) + wrong} </answer>")
            tokens[b, : len(ids)], length_B[b] = ids, len(ids)
        return Rollouts(None, None, tokens, length_B, None, None)


@pytest.mark.parametrize("limit", [0, 5])
def test_every_problem_is_graded_with_its_own_answer(tmp_path, limit):
    stage = smoke_run.stage("zero")
    tokenizer = Tokenizer.load(smoke_run.finished() / "base")
    spec = TaskSpec("arithmetic:test", {"train_size": 30, "test_size": 9})
    config = dataclasses.replace(stage.evaluation, tasks={"a": spec}, batch=4)
    (source,) = load_tasks(config, stage.data).values()
    engine = Scripted(tokenizer, {source[i]["question"]: source[i]["answer"] for i in range(len(source))})
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
        assert row["completions"] == [f" <think> t </think> <answer> {n} </answer>" for n in (right, wrong)] * 2
    lengths = [n for row in rows for n in row["tokens"]]
    assert len(lengths) == 6 * len(rows) and np.mean(lengths) == figures["mean_tokens"]


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


def test_r1s_form_is_graded_by_its_last_line():
    """After the thought a summary, whose last line has the answer, in English or in Spanish."""
    specs = graders("r1")
    assert specs["format"].fn.endswith(":readable") and specs["accuracy"].kwargs == {"extraction": "last_line"}
    completions = [
        " <think> 3 * 4 = 12. </think> The answer is 12.",
        " <think> 3 * 4 = 12. </think> La respuesta es 12.",
        " <think> The answer is 12. </think> Goodbye.",
    ]
    with load_rewards(specs, RewardsConfig(timeout_s=30.0, on_error=0.0, workers=1)) as rewards:
        batch = rewards([""] * 3, completions, {"answer": ["12"] * 3, "task": ["t"] * 3}, [[]] * 3)
    assert batch.by_name["accuracy"].tolist() == [1.0, 1.0, 0.0] and batch.by_name["format"].tolist() == [1.0] * 3
    assert graders("r1_zero")["format"].fn.endswith(":think_answer")


def test_chat_models_box_their_answers():
    completions = [" </think> It is \\boxed{12}.", " </think> <answer> 12 </answer>"]
    with load_rewards(graders("chat"), RewardsConfig(timeout_s=30.0, on_error=0.0, workers=1)) as rewards:
        batch = rewards([""] * 2, completions, {"answer": ["12"] * 2, "task": ["t"] * 2}, [[]] * 2)
    assert batch.by_name["accuracy"].tolist() == [1.0, 0.0]
