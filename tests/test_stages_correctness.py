"""Which grader a held-out record has."""

import pytest

from r1jax.config import RewardsConfig
from r1jax.rewards.compose import load_rewards
from r1jax.stages.correctness import ANSWER, OPEN, PROGRAM, graders, kind_of, reader

SUMS = [{"answer": "12", "task": "t"}]


@pytest.mark.parametrize(
    "record, kind",
    [
        ({"answer": "5", "task": "arithmetic"}, ANSWER),
        ({"answer": "A", "task": "gpqa_diamond", "subject": "Physics"}, ANSWER),
        ({"answer": "", "task": "livecodebench", "cases": "[{}]", "tests": ""}, PROGRAM),
        ({"answer": "", "task": "livecodebench", "cases": "", "tests": "[1]"}, PROGRAM),
        ({"answer": "", "task": "reasoning_gym:maze"}, ANSWER),
        ({"answer": "", "task": "chat"}, OPEN),
        ({"answer": "Good question.", "task": "replies"}, OPEN),
        ({"answer": "Hello!", "task": "general_greeting"}, OPEN),
        ({"answer": "la casa roja", "task": "general_translation"}, ANSWER),
    ],
)
def test_kinds_of_problems(record, kind):
    assert kind_of(record) == kind


def test_each_task_has_its_own_grader():
    records = [
        {"answer": "5", "task": "sums"},
        {"answer": "Hi", "task": "replies"},
        {"answer": "", "task": "script", "cases": "[1]"},
        {"answer": "", "task": "method[1]", "tests": "[1]"},
    ]
    specs = graders("r1", records, 3)
    assert {name: spec.tasks for name, spec in specs.items()} == {
        "format": [], "accuracy": ["sums"], "cases": ["script"], "tests": ["method[[]1]"]
    }  # fmt: skip
    assert specs["tests"].fn == "r1jax.rewards.code:unit_tests" and specs["tests"].kwargs == {"workers": 3}
    assert list(graders("r1", records[1:2], 3)) == ["format"]


def test_what_of_a_completion_is_graded():
    text = "<think> t </think> So:\n```python\nprint(5)\n```\nThe answer is 5."
    assert reader("r1")(text, {"answer": "5", "task": "sums"}) == "5."
    assert reader("r1")(text, {"answer": "", "task": "code", "tests": "[1]"}) == "print(5)\n"
    assert reader("r1_zero")("<answer> 5 </answer>", {"answer": "5", "task": "sums"}) == "5"


def test_r1s_form_is_graded_by_its_last_line():
    """After the thought a summary, whose last line has the answer, in English or in Spanish."""
    specs = graders("r1", SUMS, 1)
    assert specs["format"].fn.endswith(":readable") and specs["accuracy"].kwargs == {"extraction": "last_line"}
    completions = [
        " <think> 3 * 4 = 12. </think> The answer is 12.",
        " <think> 3 * 4 = 12. </think> La respuesta es 12.",
        " <think> The answer is 12. </think> Goodbye.",
    ]
    with load_rewards(specs, RewardsConfig(timeout_s=30.0, on_error=0.0, workers=1)) as rewards:
        batch = rewards([""] * 3, completions, {"answer": ["12"] * 3, "task": ["t"] * 3}, [[]] * 3)
    assert batch.by_name["accuracy"].tolist() == [1.0, 1.0, 0.0] and batch.by_name["format"].tolist() == [1.0] * 3
    assert graders("r1_zero", SUMS, 1)["format"].fn.endswith(":think_answer")


def test_chat_models_box_their_answers():
    completions = [" </think> It is \\boxed{12}.", " </think> <answer> 12 </answer>"]
    with load_rewards(graders("chat", SUMS, 1), RewardsConfig(timeout_s=30.0, on_error=0.0, workers=1)) as rewards:
        batch = rewards([""] * 2, completions, {"answer": ["12"] * 2, "task": ["t"] * 2}, [[]] * 2)
    assert batch.by_name["accuracy"].tolist() == [1.0, 0.0]
