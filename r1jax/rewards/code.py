"""Code rewards: Python that a model wrote, run in the sandbox and judged by what comes out of it.

The judging is done out here. A program is given inputs and calls, never what they should give, and can say nothing
but results: one that prints 'passed', exits early or rewrites its tests earns nothing by it.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from r1jax.rewards import sandbox
from r1jax.rewards.assertions import Check, read_results, same, take_apart
from r1jax.rewards.extraction import summary
from r1jax.rewards.format import ANSWER
from r1jax.rewards.sandbox import Limits

FENCE = "```"
DISK_MIB, OUTPUT_KIB = 16, 1024  # of one program
WALL_TO_CPU = 2.0  # a machine that does other work has twice the time
COUNTS = ("graded", "not_parsed", "timed_out")


class Case(NamedTuple):
    """A script's input, and the output that it should give."""

    stdin: str
    stdout: str


def stdin_stdout(
    prompts: Sequence[str],
    completions: Sequence[str],
    cases: Sequence[str | list[dict[str, str]] | None],
    timeout_s: float = 5.0,
    memory_mib: int = 512,
    partial: bool = False,
    workers: int = 2,
    report: Callable[[str, float], None] | None = None,
    budget_s: float = math.inf,
    **columns: Any,
) -> list[float | None]:
    """1.0 where the program prints what it should for every input, run afresh for each; else 0.0.

    Lines are compared without the spaces at their ends, and without empty lines at the end of all. The program has
    to exit with 0.

    Args:
      prompts: B prompts; not used.
      completions: B completions, untrusted. The program is the last fenced block after the thought.
      cases: B lists of {"stdin", "stdout"}, or their JSON; None or empty is 'not mine'.
      timeout_s: processor seconds of one run; it may take twice that on the clock.
      memory_mib: of one run.
      partial: score the share of cases that pass, rather than all or nothing.
      workers: programs at a time.
      report: told how many completions were graded, not_parsed (no program in it) and timed_out.
      budget_s: seconds for all of them together; what is not begun by then is timed out.
      **columns: the examples' other fields; not used.

    Raises:
      ValueError: cases are not of that form.
      RuntimeError: the sandbox does not start.
    """
    limits = _limits(timeout_s, memory_mib)
    return _grade(completions, [_cases(c) for c in cases], _passed_cases, limits, partial, workers, report, budget_s)


def unit_tests(
    prompts: Sequence[str],
    completions: Sequence[str],
    tests: Sequence[str | list[str] | None],
    timeout_s: float = 5.0,
    memory_mib: int = 512,
    partial: bool = False,
    workers: int = 2,
    report: Callable[[str, float], None] | None = None,
    budget_s: float = math.inf,
    **columns: Any,
) -> list[float | None]:
    """1.0 where all tests pass, all in one run of the program, in order; else 0.0.

    A test is an assertion whose expected value is written out, so that it can be kept from the program:
    `assert f(2) == [4]`, `assert f(2)`, `assert not f(2)`, `assert f(2) is None`, `assert abs(f(2) - 4.0) < 1e-6`.

    Args:
      tests: B lists of such assertions, or their JSON; None or empty is 'not mine'.
      prompts, completions, timeout_s, memory_mib, partial, workers, report, budget_s, **columns: as `stdin_stdout`.

    Raises:
      ValueError: a test is not of that form.
      RuntimeError: the sandbox does not start.
    """
    limits = _limits(timeout_s, memory_mib)
    return _grade(completions, [_checks(t) for t in tests], _passed_checks, limits, partial, workers, report, budget_s)


def check_stdin_stdout(cases: Sequence[Any], timeout_s: float = 5.0, memory_mib: int = 512) -> list[str]:
    """Before the run: raises ValueError where there is no sandbox, or cases are not of the right form."""
    sandbox.require()
    _limits(timeout_s, memory_mib)
    return _of_none([_cases(c) for c in cases])


def check_unit_tests(tests: Sequence[Any], timeout_s: float = 5.0, memory_mib: int = 512) -> list[str]:
    """Before the run: raises ValueError where there is no sandbox, or tests are not of the right form."""
    sandbox.require()
    _limits(timeout_s, memory_mib)
    return _of_none([_checks(t) for t in tests])


def extract_program(completion: str) -> str | None:
    """The last fenced block of what follows the thought, None where there is none; its fences start lines."""
    text = summary(completion)
    blocks: list[list[str]] = []
    inside = False
    for line in (text or "").split("\n"):
        if line.lstrip().removeprefix(ANSWER).startswith(FENCE):
            inside = not inside
            if inside:
                blocks.append([])
        elif inside:
            blocks[-1].append(line)
    if inside:  # cut off
        blocks.pop()
    program = "\n".join(blocks[-1]) if blocks else ""
    return program + "\n" if program.strip() else None


def _limits(timeout_s: float, memory_mib: int) -> Limits:
    if not 0 < timeout_s < math.inf or memory_mib < 64:
        raise ValueError(
            f"a code reward got timeout_s={timeout_s} and memory_mib={memory_mib}; "
            "expected a positive, finite time and at least 64 MiB, which the interpreter needs"
        )
    return Limits(timeout_s, WALL_TO_CPU * timeout_s, memory_mib, DISK_MIB, OUTPUT_KIB)


def _of_none(rows: Sequence[Sequence[Any]]) -> list[str]:
    empty = sum(not row for row in rows)
    return [f"{empty} of {len(rows)} examples have no tests, and are not scored"] if empty else []


def _parsed(row: Any, form: type, field: str, example: str) -> list[Any]:
    """A row of a column as a list of `form`."""
    try:
        items = json.loads(row) if isinstance(row, str) and row else row or []
    except json.JSONDecodeError:
        items = None
    if not isinstance(items, list) or not all(isinstance(item, form) for item in items):
        raise ValueError(f"column {field!r} got {str(row)[:200]!r}; expected a list such as {example}, or its JSON")
    return items


def _cases(row: Any) -> tuple[Case, ...]:
    example = '[{"stdin": "2 3", "stdout": "5"}]'
    items = _parsed(row, dict, "cases", example)
    for item in items:
        if item.keys() != {"stdin", "stdout"} or not all(isinstance(value, str) for value in item.values()):
            raise ValueError(f"column 'cases' got {str(item)[:200]}; expected texts stdin and stdout, as in {example}")
    return tuple(Case(**item) for item in items)


def _checks(row: Any) -> tuple[Check, ...]:
    return tuple(take_apart(test) for test in _parsed(row, str, "tests", '["assert f(2) == 4"]'))


def _grade(
    completions: Sequence[str],
    tests: Sequence[tuple[Any, ...]],
    passed: Callable[[str, tuple[Any, ...], Limits], tuple[int, bool]],
    limits: Limits,
    partial: bool,
    workers: int,
    report: Callable[[str, float], None] | None,
    budget_s: float,
) -> list[float | None]:
    """Run each program with its tests, equal ones once; scores in the order of the completions."""
    deadline = time.monotonic() + budget_s
    jobs = [(extract_program(c), own) if own else None for c, own in zip(completions, tests, strict=True)]
    keys = {repr(job): (job[0], job[1]) for job in jobs if job is not None and job[0] is not None}

    def outcome(job: tuple[str, tuple[Any, ...]]) -> tuple[int, bool]:
        return passed(*job, limits) if time.monotonic() < deadline else (0, True)

    with ThreadPoolExecutor(workers, "r1jax-sandbox") as threads:
        outcomes = dict(zip(keys, threads.map(outcome, keys.values()), strict=True))
    counts: Counter[str] = Counter()
    scores: list[float | None] = []
    for job in jobs:
        if job is None:
            scores.append(None)
            continue
        program, own = job
        count, late = outcomes[repr(job)] if program is not None else (0, False)
        counts["not_parsed" if program is None else "timed_out" if late else "graded"] += 1
        scores.append(count / len(own) if partial else float(count == len(own)))
    if report is not None:
        for name in COUNTS:
            report(name, float(counts[name]))
    return scores


def _passed_cases(program: str, cases: tuple[Case, ...], limits: Limits) -> tuple[int, bool]:
    """How many cases pass, and whether a run was out of time."""
    count, late = 0, False
    for case in cases:
        ended = sandbox.run(program, (), case.stdin, limits)
        late |= ended.status == "timeout"
        right = ended.status == "exited" and ended.code == 0
        count += right and _lines(ended.output.decode(errors="replace")) == _lines(case.stdout)
    return count, late


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _passed_checks(program: str, checks: tuple[Check, ...], limits: Limits) -> tuple[int, bool]:
    """How many checks pass, and whether the run was out of time."""
    ended = sandbox.run(program, [check.expression for check in checks], "", limits)
    results = read_results(ended.output)
    count = sum(i in results and same(results[i], c.expected, c.tolerance) for i, c in enumerate(checks))
    return count, ended.status == "timeout"
