"""Benchmarks from small files of the published form, written here: no published problem is kept in the repository."""

import base64
import csv
import json
import pickle
import zlib
from collections import Counter

import pytest

from r1jax.data import tasks
from r1jax.rewards import code
from r1jax.rewards.answers import accuracy


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))


def load(name, data_dir, folder, **kwargs):
    return list(tasks.load(name, "test", data_dir=data_dir, source_dir=str(folder), kwargs=kwargs))


def write_lines(path, *rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_aime_answers_are_integers_and_the_instruction_follows_the_question(tmp_path, data_dir):
    path = tmp_path / "aime24" / "test.jsonl"
    write_lines(path, {"id": 1, "problem": "How many?", "answer": "073"}, {"id": 2, "problem": "And?", "answer": 204})
    assert [r["answer"] for r in load("aime24", data_dir, tmp_path)] == ["73", "204"]
    first = load("aime24", data_dir, tmp_path, instruction="Box it.")[0]
    assert first == {"question": "How many?\nBox it.", "answer": "73", "task": "aime24", "language": "en"}
    boxed = [r"<think>70 + 3</think> It is \boxed{073}.", r"\boxed{730}", r"\boxed{70+3}"]
    columns = {"answer": ["73"] * 3, "task": ["aime24"] * 3}
    assert accuracy(prompts=[""] * 3, completions=boxed, extraction="boxed", **columns) == [1.0, 0.0, 0.0]
    for bad in ("1000", "-1", "7.0", "seven"):
        write_lines(path, {"problem": "How many?", "answer": bad})
        with pytest.raises(
            ValueError, match=r"test.jsonl line 1: field 'answer' is '.*'; expected an integer in 0\.\.999"
        ):
            load("aime24", data_dir, tmp_path)


HEADER = ("Record ID", "Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


def write_gpqa(folder, rows):
    path = folder / "gpqa_diamond" / "gpqa_diamond.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([(*HEADER, "Subdomain"), *rows])
    return path


def test_gpqa_choices_are_dealt_out_by_the_question(tmp_path, data_dir):
    rows = [(str(i), f"Which of\nthese is {i}?", f" right {i}\n", "w1", "w2, so", "w3", "Optics") for i in range(400)]
    write_gpqa(tmp_path, rows)
    records = load("gpqa_diamond", data_dir, tmp_path)
    for i, record in enumerate(records):
        question, _, choices = record["question"].partition("\n\n")
        assert question == f"Which of\nthese is {i}?" and record["subject"] == "Optics"
        named = dict(line.split(". ", 1) for line in choices.split("\n"))
        assert named[record["answer"]] == f"right {i}" and sorted(named.values())[1:] == ["w1", "w2, so", "w3"]
        assert list(named) == list("ABCD")
    counts = Counter(record["answer"] for record in records)
    assert all(70 < counts[letter] < 130 for letter in "ABCD"), counts  # 100 each, give or take 3.5 deviations
    write_gpqa(tmp_path, rows[::-1])
    assert load("gpqa_diamond", data_dir, tmp_path) == records[::-1]  # whatever the file's order
    assert accuracy(
        prompts=["", ""], completions=[r"\boxed{B}", r"\boxed{\text{C}}"], answer=["B", "B"], task=["gpqa_diamond"] * 2,
        extraction="boxed",
    ) == [1.0, 0.0]  # fmt: skip


def test_gpqa_says_where_to_get_it_and_what_is_missing(tmp_path, data_dir):
    for folder in ("", tmp_path):
        with pytest.raises(ValueError, match=r"data.source_dir is .*password from https://github.com/idavidrein/gpqa"):
            load("gpqa_diamond", data_dir, folder)
    write_gpqa(tmp_path, [("1", "Which?", "right", "w1", "", "w3", "")])
    with pytest.raises(ValueError, match=r"record 1: column 'Incorrect Answer 2' is empty"):
        load("gpqa_diamond", data_dir, tmp_path)


def problem(day, tests, private, starter="", name=None):
    return {
        "question_content": "Add two numbers.", "platform": "here", "contest_date": f"{day}T00:00:00",
        "starter_code": starter, "difficulty": "easy", "metadata": json.dumps({"func_name": name} if name else {}),
        "public_test_cases": json.dumps(tests), "private_test_cases": private,
    }  # fmt: skip


def packed(value):
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def case(given, wanted, kind="stdin"):
    return {"input": given, "output": wanted, "testtype": kind}


STARTER = "class Solution:\n    def add(self, a: int, b: List[int]) -> List[int]:\n        "


def write_contests(folder, *rows):
    write_lines(folder / "livecodebench" / "test4.jsonl", *rows[:1])
    write_lines(folder / "livecodebench" / "test5.jsonl", *rows[1:])


def test_code_tasks_have_the_columns_that_their_graders_read(tmp_path, data_dir):
    hidden = packed(json.dumps([case("5 6\n", "11\n")]))
    calls = [case("1\n[2, null]", "[3, true]", "functional")]
    write_contests(
        tmp_path,
        problem("2024-07-31", [case("0 0", "0")], "[]"),
        problem("2024-08-01", [case("2 3\n", "5\n")], hidden),
        problem("2025-01-31", calls, json.dumps(calls), STARTER, "add"),
        problem("2025-02-01", [case("0 0", "0")], "[]"),
    )
    script, method = load("livecodebench", data_dir, tmp_path)
    assert json.loads(script["cases"]) == [{"stdin": "2 3\n", "stdout": "5\n"}, {"stdin": "5 6\n", "stdout": "11\n"}]
    assert (script["tests"], script["answer"], script["date"]) == ("", "", "2024-08-01")
    assert "standard input" in script["question"] and STARTER.strip("\n") in method["question"]
    assert json.loads(method["tests"]) == ["assert Solution().add(1, [2, None]) == [3, True]"] * 2
    assert [code._cases(r["cases"]) for r in (script, method)][1] == () and len(code._cases(script["cases"])) == 2
    (check, _), none = code._checks(method["tests"]), code._checks(script["tests"])
    assert (check.expression, check.expected, none) == ("Solution().add(1, [2, None])", [3, True], ())
    every = load("livecodebench", data_dir, tmp_path, first="2023-05-01", last="2025-06-01")
    assert [r["date"] for r in every] == ["2024-07-31", "2024-08-01", "2025-01-31", "2025-02-01"]


def test_code_tasks_refuse_what_is_not_of_the_published_form(tmp_path, data_dir):
    bad = {
        "expected plain text": ([case("1", "1")], packed(print)),
        "base64": ([case("1", "1")], "x"),
        "expected at least one test": ([], "[]"),
        "all 'stdin'": ([case("1", "1", "functional")], "[]"),
    }
    for message, (tests, private) in bad.items():
        write_contests(tmp_path, problem("2024-09-01", tests, private))
        with pytest.raises(ValueError, match=rf"test4.jsonl line 1: its tests are not .*{message}"):
            load("livecodebench", data_dir, tmp_path)
    with pytest.raises(ValueError, match=r"kwargs.first is 'yesterday'; expected a day"):
        load("livecodebench", data_dir, tmp_path, first="yesterday")
