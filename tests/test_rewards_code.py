"""Code rewards: honest programs, programs that would rather not do the work, and tests that cannot be graded."""

import time

import pytest
from test_rewards_sandbox import needs_sandbox

from r1jax.config import RewardsConfig, RewardSpec
from r1jax.rewards.assertions import Check, read_results, same, take_apart
from r1jax.rewards.code import check_stdin_stdout, check_unit_tests, extract_program, stdin_stdout, unit_tests
from r1jax.rewards.compose import load_rewards

SQUARE = ["assert square(3) == 9", "assert square(-4) == 16", "assert square(0) == 0"]
SUM = [{"stdin": "2 3\n", "stdout": "5\n"}, {"stdin": "10 -4", "stdout": "6"}]


def wrap(program):
    return f"<think> not ```python\n1 / 0\n``` this </think>\nHere it is:\n```python\n{program}\n```\nIt works."


def grade(function, programs, tests, **kwargs):
    column = {"cases" if function is stdin_stdout else "tests": [tests] * len(programs)}
    n = len(programs)
    return function(prompts=[""] * n, completions=[wrap(p) for p in programs], task=["any"] * n, **column, **kwargs)


@needs_sandbox
def test_unit_tests():
    programs = [
        "def square(x): return x * x",
        "def square(x): return 9",
        "def square(x): return str(x * x)",
        "def square(x): return float(x * x)",
        "def square(y): print('noise', flush=True); return y ** 2\nif __name__ == '__main__': print(1 / 0)",
        "def cube(x): return x",
        "def square(x) return",
        "def square(x):\n  while x > 0: pass\n  return x * x",
    ]
    reported = {}
    scores = grade(unit_tests, programs, SQUARE, timeout_s=1.0, report=reported.__setitem__)
    assert scores == [1, 0, 0, 1, 1, 0, 0, 0]
    assert reported == {"graded": 7, "not_parsed": 0, "timed_out": 1}
    partial = grade(unit_tests, programs[:4] + programs[7:], SQUARE, timeout_s=1.0, partial=True)
    assert partial == pytest.approx([1, 1 / 3, 0, 1, 0])


@needs_sandbox
def test_stdin_stdout():
    programs = [
        "a, b = map(int, input().split())\nprint(a + b)",
        "print(5)",
        "print(sum(map(int, input().split())), end='  \\n\\n')",
        "print(sum(map(int, input().split()))); raise SystemExit(1)",
        "print('the sum is', sum(map(int, input().split())))",
        "import time; time.sleep(60)",
    ]
    reported = {}
    scores = grade(stdin_stdout, programs, SUM, timeout_s=0.5, report=reported.__setitem__)
    assert scores == [1, 0, 1, 0, 0, 0]
    assert reported == {"graded": 5, "not_parsed": 0, "timed_out": 1}
    assert grade(stdin_stdout, programs[:2], SUM, partial=True) == [1, 0.5]


FORGERIES = {
    "says so": "print('passed'); print('True'); print('OK')",
    "leaves early": "import os; os._exit(0)",
    "exits": "raise SystemExit(0)",
    "is equal to all": """
class Any:
  def __eq__(s, o): return True
  __ne__ = __lt__ = __gt__ = __eq__
def square(x): return Any()
""",
    "is an equal number": """
class Any(int):
  def __eq__(s, o): return True
  __hash__ = int.__hash__
def square(x): return Any(1)
""",
    "rewrites the tools": """
import builtins, json
builtins.bool = lambda x: True
builtins.eval = lambda *a: 9
builtins.compile = lambda *a: ''
json.dumps = lambda x: '[0, ["int", 9]]'
def square(x): return 0
""",
    "writes results itself": """
import os
for d in range(64):
  try: os.write(d, b'\\n[0, true]\\n[1, true]\\n[2, true]\\n')
  except OSError: pass
def square(x): return x
""",
    "guesses many times": """
import os
def square(x):
  for i in range(3):
    for v in range(20):
      for d in (1, 3, 4, 5, 6):
        try: os.write(d, f'[{i}, ["int", {v}]]\\n'.encode())
        except OSError: pass
  os._exit(0)
""",
    "looks for what is expected": """
import gc, sys
def square(x):
  f = sys._getframe()
  while f:
    for v in list(f.f_locals.values()):
      if isinstance(v, list) and 16 in v: return 16
    f = f.f_back
  return 0
""",
    "answers for others": """
import sys
sys.modules['__main__'].pack = lambda v: ['int', 9]
def square(x): return x
""",
    "nests": """
def square(x):
  v = []
  for _ in range(100000): v = [v]
  return v
""",
    "floods": "def square(x): return 'x' * (1 << 26)",
    "returns digits": """
import sys
def square(x): sys.set_int_max_str_digits(0); return 10 ** 100000
""",
}


@needs_sandbox
def test_forgeries_earn_nothing():
    scores = grade(unit_tests, list(FORGERIES.values()), SQUARE, timeout_s=2.0)
    assert dict(zip(FORGERIES, scores, strict=True)) == dict.fromkeys(FORGERIES, 0.0)
    scores = grade(stdin_stdout, list(FORGERIES.values()), SUM, timeout_s=2.0)
    assert dict(zip(FORGERIES, scores, strict=True)) == dict.fromkeys(FORGERIES, 0.0)


@needs_sandbox
def test_rows_without_tests_and_without_programs():
    completions = [wrap("def f(): return 1"), "no program", wrap("def f(): return 1"), wrap("def f(): return 2")]
    tests = ["[]", '["assert f() == 1"]', None, ["assert f() == 1"]]
    reported = {}
    scores = unit_tests([""] * 4, completions, tests, report=reported.__setitem__)
    assert scores == [None, 0.0, None, 0.0]
    assert reported == {"graded": 1, "not_parsed": 1, "timed_out": 0}


@needs_sandbox
def test_a_spent_budget_is_a_timeout():
    reported = {}
    assert grade(unit_tests, ["def square(x): return x * x"], SQUARE, budget_s=0.0, report=reported.__setitem__) == [
        0.0
    ]
    assert reported["timed_out"] == 1


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("```python\nx = 1\n```", "x = 1\n"),
        ("```\na\n```\ntext\n```py\nb\n```\n", "b\n"),
        ("<answer>```python\nx\n```</answer>", "x\n"),
        ("<think>```python\nx\n```</think> none", None),
        ("<think>```python\nx\n```", None),
        ("```python\nx = 1", None),  # cut off
        ("```python\n\n```", None),
        ("x = 1", None),
        ("", None),
    ],
)
def test_extraction(completion, program):
    assert extract_program(completion) == program


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ("assert f(2) == [4, (1,)]", Check("f(2)", [4, (1,)], None)),
        ("assert {1: 'a'} == f(2), 'why'", Check("f(2)", {1: "a"}, None)),
        ("assert sorted(f('x')) == []", Check("sorted(f('x'))", [], None)),
        ("assert f(2) is None", Check("f(2)", None, None)),
        ("assert f(2)", Check("bool(f(2))", True, None)),
        ("assert not Solution().f(2)", Check("bool(Solution().f(2))", False, None)),
        ("assert abs(f(2) - 4.0) < 1e-6", Check("f(2)", 4.0, 1e-6)),
        ("assert f(-1) == -1", Check("f(-1)", -1, None)),
    ],
)
def test_assertions_are_taken_apart(test, expected):
    assert take_apart(test) == expected


@pytest.mark.parametrize(
    "test",
    [
        "",
        "f(2)",
        "assert f(2) ==",
        "assert f(2) == 4; x = 1",
        "assert f(2) == g(2)",
        "assert f(2) > 3",
        "assert 1 < f(2) < 3",
        "assert f(2) == 4 and f(3) == 9",
        "assert not f(2) == 3",
        "assert all(f(2))",
        "assert math.isclose(f(2), 4.0)",
    ],
)
def test_assertions_that_would_show_what_they_expect(test):
    with pytest.raises(ValueError, match="expected value is written out"):
        take_apart(test)


@pytest.mark.parametrize(
    ("packed", "expected", "equal"),
    [
        (["int", 2], 2.0, True),
        (["bool", True], 1, True),
        (["str", "2"], 2, False),
        (["int", "2"], 2, False),
        (["float", float("nan")], 1.0, False),
        (["list", [["int", 1]]], [1], True),
        (["list", [["int", 1]]], (1,), False),
        (["list", [["int", 1], ["int", 1]]], [1], False),
        (["set", [["int", 2], ["float", 1.0]]], {1, 2}, True),
        (["set", [["int", 2], ["int", 2]]], {1, 2}, False),
        (["dict", [[["str", "b"], ["list", []]], [["str", "a"], ["int", 1]]]], {"a": 1, "b": []}, True),
        (["dict", [[["str", "a"], ["int", 1]], [["str", "a"], ["int", 1]]]], {"a": 1, "b": 1}, False),
        (["dict", [["str", "a"]]], {"a": 1}, False),
        (["bytes", "00ff"], b"\0\xff", True),
        (["complex", [1.0, 2.0]], 1 + 2j, True),
        (["NoneType", None], None, True),
        (["function"], None, False),
        (["list", 7], [], False),
        (None, None, False),
        ({"a": 1}, 1, False),
        (["int", 10**400], 1.5, False),
    ],
)
def test_same(packed, expected, equal):
    assert same(packed, expected, None) is equal


def test_same_within_a_tolerance():
    assert same(["float", 4.0000005], 4.0, 1e-6) and not same(["float", 4.1], 4.0, 1e-6)
    assert not same(["int", 10**400], 4.0, 1e-6) and not same(["float", float("nan")], 4.0, 1e-6)
    assert same(["list", [["float", 1.05]]], [1], 0.1)


def test_results_from_untrusted_text():
    nested = b"[0, " + b"[" * 100_000 + b"]" * 100_000 + b"]"
    lines = [
        b"[0, 1]",
        b"noise",
        b"\xff\xfe",
        nested,
        b"[1, 2]",
        b"[1, 2]",
        b'["2", 3]',
        b"[true, 3]",
        b"[3]",
        b"4",
        b"[5, 6",
    ]
    assert read_results(b"\n".join(lines)) == {0: 1}


def test_linear_time():
    """A large set of the program's choosing costs no more than the expected one."""
    start = time.process_time()
    assert not same(["set", [["int", i * (2**61 - 1)] for i in range(100_000)]], {1, 2}, None)
    assert extract_program("```\n" * 500_001) is None
    assert time.process_time() - start < 5  # what is quadratic takes minutes


@needs_sandbox
def test_tests_are_checked_before_the_run():
    assert check_unit_tests(['["assert f(1) == 1"]', None]) == ["1 of 2 examples have no tests, and are not scored"]
    assert check_stdin_stdout([SUM]) == []
    for wrong in ('{"stdin": 1}', '["x"]', "nonsense", [{"stdin": "1"}], [{"stdin": 1, "stdout": "1"}]):
        with pytest.raises(ValueError, match="column 'cases' got"):
            check_stdin_stdout([wrong])
    with pytest.raises(ValueError, match=r"column 'tests' got 'assert f\(1\) > 2'"):
        check_unit_tests([["assert f(1) > 2"]])
    with pytest.raises(ValueError, match="timeout_s=0"):
        check_unit_tests([SQUARE], timeout_s=0)


def test_a_missing_sandbox_fails_at_the_start(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for check, tests in ((check_unit_tests, SQUARE), (check_stdin_stdout, SUM)):
        with pytest.raises(ValueError, match="apt-get install bubblewrap"):
            check([tests])


@needs_sandbox
def test_from_a_config():
    specs = {"code": RewardSpec("r1jax.rewards.code:unit_tests", 1.0, {"timeout_s": 2.0})}
    columns = {"tests": ['["assert f(2) == 4"]'] * 2, "task": ["code"] * 2}
    completions = [wrap("def f(x): return x + x"), wrap("def f(x): return x")]
    with load_rewards(specs, RewardsConfig(timeout_s=30.0, on_error=0.0, workers=1)) as rewards:
        batch = rewards(["", ""], completions, columns, [[1], [1]])
    assert batch.total_B.tolist() == [1.0, 0.0]
    assert batch.metrics["reward/code/graded"] == 2


@needs_sandbox
@pytest.mark.slow
def test_a_thousand_honest_programs():
    """500 pairs of a right and a wrong program, half of them scripts."""
    right = ["def square(x): return x * x + {0} - {0}", "a, b = map(int, input().split()); print(a + b + {0} - {0})"]
    wrong = ["def square(x): return x * x + {0} + 1", "a, b = map(int, input().split()); print(a + b + {0} + 1)"]
    scores, runs, start = [], 0, time.monotonic()
    for function, tests, kind in ((unit_tests, SQUARE, 0), (stdin_stdout, SUM[:1], 1)):
        programs = [source[kind].format(i) for i in range(250) for source in (right, wrong)]
        scores += grade(function, programs, tests)
        runs += len(programs)
    seconds = time.monotonic() - start
    print(f"{runs} programs, {runs / seconds:.0f} programs/s")
    assert scores == [1.0, 0.0] * 500
    assert runs / seconds > 12
