r"""Published problem sets: how each one's raw file becomes task records. No problem is kept in this repository.

Every function here takes the paths of a split's raw files and the benchmark's parameters, and yields records. A file
that is not of the published form is refused, naming the line and the field.
"""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import io
import json
import pickle
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from r1jax.data.records import read_jsonl

Record = dict[str, str]

LETTERS = "ABCD"
AIME_MOST = 999  # an answer is an integer of up to three digits
_GSM8K_ANSWER = re.compile(r"####\s*(-?[\d,]*\.?\d+)\s*$")
_GSM8K_CALCULATION = re.compile(r"<<[^<>]*>>")
SOLVED = {  # a worked solution as a completion, by the template that it is to be learnt in
    "plain": " {work} The answer is {answer}.",
    "r1_zero": " <think> {work} </think> <answer> {answer} </answer>",
    "r1": " <think> {work} </think> The answer is {answer}.",
}
_CHOICES = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
_FROM_STDIN = (
    "Write a Python program that reads its input from standard input and prints the answer. End with the whole "
    "program in one ```python block."
)
_FROM_STARTER = "Complete this Python class. End with the whole of it in one ```python block.\n\n```python\n{}\n```"


@dataclasses.dataclass(frozen=True)
class Published:
    """Parameters of a published set of problems."""

    instruction: str = ""  # put after each question, on a line of its own: the form the answer is wanted in


@dataclasses.dataclass(frozen=True)
class Solutions:
    """Parameters of GSM8K's solutions as completions to learn."""

    template: str = "r1_zero"  # a key of `SOLVED`

    def __post_init__(self):
        if self.template not in SOLVED:
            raise ValueError(
                f"data.source['gsm8k_solutions'].kwargs.template is {self.template!r}; expected one of "
                f"{', '.join(SOLVED)}"
            )


@dataclasses.dataclass(frozen=True)
class CodeContests:
    """Parameters of LiveCodeBench: its contests' days, both included. R1 was measured on those of the defaults."""

    first: str = "2024-08-01"
    last: str = "2025-01-31"

    def __post_init__(self):
        for field in ("first", "last"):
            if not re.fullmatch(r"\d{4}-\d\d-\d\d", getattr(self, field)):
                raise ValueError(
                    f"data.source['livecodebench'].kwargs.{field} is {getattr(self, field)!r}; expected a day such as "
                    "'2024-08-01'"
                )


def gsm8k(paths: Sequence[Path], parameters: Published) -> Iterator[Record]:
    """Grade-school word problems; `solution` is the published text, `answer` its number."""
    for path, line, row in _lines(paths, ("question", "answer")):
        found = _GSM8K_ANSWER.search(row["answer"])
        if not found:
            raise ValueError(f"{path} line {line}: field 'answer' does not end in '#### NUMBER'")
        answer, solution = found[1].replace(",", ""), row["answer"]
        yield {"question": _asked(row["question"], parameters), "answer": answer, "solution": solution}


def gsm8k_solutions(paths: Sequence[Path], parameters: Solutions) -> Iterator[Record]:
    """GSM8K with the published solution as `completion`, on one line, without the calculator's annotations."""
    for row in gsm8k(paths, Published()):
        steps = _GSM8K_CALCULATION.sub("", row["solution"]).split("\n")[:-1]
        work = " ".join(" ".join(steps).split())
        completion = SOLVED[parameters.template].replace("{work}", work).replace("{answer}", row["answer"])
        yield {
            "question": row["question"],
            "answer": row["answer"],
            "template": parameters.template,
            "completion": completion,
        }


def math500(paths: Sequence[Path], parameters: Published) -> Iterator[Record]:
    """Problems of MATH, with their subject and level."""
    for _, _, row in _lines(paths, ("problem", "answer", "solution", "subject", "level")):
        record = {field: row[field] for field in ("answer", "solution", "subject", "level")}
        yield record | {"question": _asked(row["problem"], parameters)}


def aime24(paths: Sequence[Path], parameters: Published) -> Iterator[Record]:
    """Problems whose answer is an integer in 0..999; leading zeros, as contestants write them, are dropped."""
    for path, line, row in _lines(paths, ("problem", "answer")):
        answer = row["answer"].strip()
        if not re.fullmatch(r"[0-9]{1,3}", answer):
            raise ValueError(f"{path} line {line}: field 'answer' is {answer!r}; expected an integer in 0..{AIME_MOST}")
        yield {"question": _asked(row["problem"], parameters), "answer": str(int(answer))}


def gpqa_diamond(paths: Sequence[Path], parameters: Published) -> Iterator[Record]:
    """Multiple choice of four, of which `answer` is the letter.

    The published file names the right choice first. They are dealt out anew by a hash of the question, so that a
    problem's letters are the same in every run and under every order of the file.
    """
    for path in paths:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            for number, row in enumerate(rows, 1):
                for field in ("Question", *_CHOICES):
                    if not (row.get(field) or "").strip():
                        raise ValueError(f"{path} record {number}: column {field!r} is empty or not there")
                question, choices = row["Question"].strip(), [row[field].strip() for field in _CHOICES]
                order = _dealt(question)
                lines = [f"{letter}. {choices[i]}" for letter, i in zip(LETTERS, order, strict=True)]
                yield {
                    "question": _asked("\n".join((question, "", *lines)), parameters),
                    "answer": LETTERS[order.index(0)],
                    "subject": (row.get("Subdomain") or "").strip(),
                }


def livecodebench(paths: Sequence[Path], parameters: CodeContests) -> Iterator[Record]:
    """Programming contests. A program is judged by `cases` or by `tests`, as `rewards/code.py` reads them.

    Problems with starter code (a class with one method) are called; the others read standard input. `answer` is empty:
    there are many right programs.
    """
    fields = ("question_content", "contest_date", "public_test_cases", "private_test_cases", "metadata")
    for path, line, row in _lines(paths, fields):
        if not parameters.first <= row["contest_date"][:10] <= parameters.last:
            continue
        try:
            public, private = json.loads(row["public_test_cases"]), _private(row["private_test_cases"])
            tests = [(test["testtype"], test["input"], test["output"]) for test in public + private]
            method = json.loads(row["metadata"]).get("func_name")
            judged = _judged(tests, method)
        except (ValueError, KeyError, TypeError, pickle.UnpicklingError, zlib.error) as error:
            raise ValueError(f"{path} line {line}: its tests are not of the published form ({error!r})") from error
        starter = row.get("starter_code", "").strip("\n")
        asks = _FROM_STARTER.format(starter) if method else _FROM_STDIN
        yield judged | {
            "question": f"{row['question_content'].strip()}\n\n{asks}",
            "answer": "",
            "difficulty": row.get("difficulty", ""),
            "date": row["contest_date"][:10],
        }


def _lines(paths: Sequence[Path], required: tuple[str, ...]) -> Iterator[tuple[Path, int, Record]]:
    for path in paths:
        for line, row in read_jsonl(path, required):
            yield path, line, row


def _asked(question: str, parameters: Published) -> str:
    return f"{question}\n{parameters.instruction}" if parameters.instruction else question


def _dealt(question: str) -> list[int]:
    """A permutation of the four choices, each as likely as any other."""
    key = [hashlib.blake2b(f"{i} {question}".encode(), digest_size=8).digest() for i in range(len(LETTERS))]
    return sorted(range(len(LETTERS)), key=key.__getitem__)


class _Text(pickle.Unpickler):
    """Reads a pickle of plain text. A pickle may name any function to be called: here it may name none."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it calls for {module}.{name}; expected plain text")


def _private(text: str) -> list[dict[str, str]]:
    """The hidden tests: JSON, or JSON in a pickle, deflated, in base64, as most of the published lines have it."""
    if text.lstrip().startswith("["):
        return json.loads(text)
    return json.loads(_Text(io.BytesIO(zlib.decompress(base64.b64decode(text)))).load())


def _judged(tests: list[tuple[str, str, str]], method: str | None) -> dict[str, str]:
    """The columns `cases` and `tests`, of which one is empty."""
    kind = "functional" if method else "stdin"
    if not tests or any(test_kind != kind for test_kind, _, _ in tests):
        raise ValueError(f"expected at least one test, all {kind!r}")
    if not method:
        cases = [{"stdin": given, "stdout": wanted} for _, given, wanted in tests]
        return {"cases": json.dumps(cases), "tests": ""}
    if not method.isidentifier():
        raise ValueError(f"func_name is {method!r}")
    return {"cases": "", "tests": json.dumps([_assertion(method, given, wanted) for _, given, wanted in tests])}


def _assertion(method: str, given: str, wanted: str) -> str:
    """`given` has an argument a line, in JSON, as `wanted` is."""
    arguments = ", ".join(repr(json.loads(line)) for line in given.split("\n") if line.strip())
    return f"assert Solution().{method}({arguments}) == {json.loads(wanted)!r}"
