"""Composition: the worked example through the real functions, and functions that fail in every way."""

import asyncio
import logging
import sys
import threading
import time

import numpy as np
import pytest

from r1jax.config import RewardsConfig, RewardSpec
from r1jax.rewards.compose import load_rewards

GRADING = RewardsConfig(timeout_s=20.0, on_error=0.0, workers=1)
R1_ZERO = {
    "accuracy": RewardSpec("r1jax.rewards.answers:accuracy", 1.0, {}),
    "format": RewardSpec("r1jax.rewards.format:think_answer", 0.1, {}),
}

MINE = """
import asyncio, os, time
import numpy as np
calls = []
def length(completions, target, **kwargs): return [len(c) / target for c in completions]
def named(prompts, completions, completion_ids, answer): return [float(len(i)) for i in completion_ids]
def everything(**kwargs): calls.append(sorted(kwargs)); return [1.0] * len(kwargs["completions"])
def served(completions, pool, report, budget_s):
    report("seen", len(completions))
    return [pool.map("math:sqrt", [(9,)], budget_s)[0].value] * len(completions)
async def later(completions, answer): await asyncio.sleep(0.01); return [float(a) for a in answer]
class Callable:
    async def __call__(self, completions): return [2.0] * len(completions)
instance = Callable()
def some(completions): return [None if c == "b" else 3.0 for c in completions]
def none(completions): return [None] * len(completions)
def array(completions): return np.arange(len(completions))
def truth(completions): return [c == "a" for c in completions]
def raises(completions): raise KeyError("hidden")
def exits(completions): raise SystemExit(3)
def short(completions): return [1.0]
def words(completions): return ["high"] * len(completions)
def nothing(completions): return None
def nan(completions): return [float("nan"), 5.0, float("inf"), -1e300][: len(completions)]
def hangs(completions): calls.append("hang"); time.sleep(2); return [1.0] * len(completions)
def slow(completions): time.sleep(0.4); return [1.0] * len(completions)
def needs(completions, no_such_column): return [0.0]
def positional(completions, /): return [0.0]
def changes(completions): completions.clear(); return []
def dies(completions):
    if "die" in completions: os._exit(7)
    return [1.0] * len(completions)
async def stalls(completions):
    if "stall" in completions: await asyncio.sleep(3600)
    return [2.0] * len(completions)
def ids(completion_ids, level): return [float(len(i)) + level for i in completion_ids]
def told(completions, echo): return echo(completions)
def checked(completions, answer, least=0): return [float(a) for a in answer]
def check_checked(answer, pool, least=0):
    if least > 5: raise ValueError(f"least is {least}; expected at most 5")
    return [f"{len(answer)} answers, the first {answer[0]}"]
constant = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A user's module in the working directory, which is not on the import path."""
    (tmp_path / "my_rewards.py").write_text(MINE)
    (tmp_path / "broken_rewards.py").write_text("raise OSError('no such disk')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield "my_rewards"
    sys.modules.pop("my_rewards", None)


def score(fns: dict, completions=("a", "b", "c", "d"), grading=GRADING, weight=1.0, **kwargs):
    specs = {name: RewardSpec(f"my_rewards:{fn}", weight, kwargs) for name, fn in fns.items()}
    with load_rewards(specs, grading) as rewards:
        return run(rewards, list(completions))


def run(rewards, completions, **columns):
    n = len(completions)
    columns = columns or {"answer": [str(i) for i in range(n)], "task": ["t"] * n}
    return rewards(["?"] * n, completions, columns, [list(range(i)) for i in range(n)])


def test_worked_example():
    completions = [
        "<think> 2+3 = 5, 5*4 = 20 </think> <answer> 20 </answer>",
        "<think> 3*4 = 12, 2+12 = 14 </think> <answer> 14 </answer>",
        "<answer> 14 </answer>",
        "<think> qwz blip 7 7 7 </think> <answer> 9 </answer>",
    ]
    columns = {"answer": ["14"] * 4, "task": ["arithmetic"] * 4}
    with load_rewards(R1_ZERO, GRADING) as rewards:
        assert rewards.check(columns) == []
        batch = rewards(["What is 2 + 3 * 4?"] * 4, completions, columns, [[1]] * 4)
    assert batch.by_name["accuracy"].tolist() == [0, 1, 1, 0]
    assert batch.by_name["format"].tolist() == [1, 1, 0, 1]
    assert batch.total_B.dtype == np.float32
    np.testing.assert_allclose(batch.total_B, [0.1, 1.1, 1.0, 0.1], atol=1e-7)
    # mean 0.575; squares 0.225625, 0.275625, 0.180625, 0.225625, whose mean is 0.226875
    assert batch.metrics["reward/mean"] == pytest.approx(0.575)
    assert batch.metrics["reward/std"] == pytest.approx(0.226875**0.5)
    assert batch.metrics["reward/accuracy/mean"] == 0.5 and batch.metrics["reward/format/mean"] == 0.75
    assert batch.metrics["reward/accuracy/graded"] == 4 and batch.metrics["reward/accuracy/errors"] == 0


def test_worked_example_in_two_languages():
    """o1: wrong, in English; o2: right, in English; weights 1 and 0.2, for an English question."""
    completions = [
        "<think> First add two and three, which gives five, then multiply by four </think> <answer> 20 </answer>",
        "<think> First multiply three by four, which gives twelve, then add two </think> <answer> 14 </answer>",
    ]
    specs = {
        "accuracy": RewardSpec("r1jax.rewards.answers:accuracy", 1.0),
        "language": RewardSpec("r1jax.rewards.language:consistency", 0.2),
    }
    columns = {"answer": ["14"] * 2, "task": ["arithmetic"] * 2, "language": ["en"] * 2}
    with load_rewards(specs, GRADING) as rewards:
        assert rewards.check(columns) == []
        batch = rewards(["What is 2 + 3 * 4?"] * 2, completions, columns, [[1]] * 2)
    np.testing.assert_allclose(batch.total_B, [0.2, 1.2], atol=1e-4)  # the share is of likelihoods, just under 1


# As TRL's own documentation has them: by keyword, extra columns swallowed, a list of floats or None.
TRLS = """
import asyncio, re
def reward_len(completions, **kwargs):
    return [float(len(completion)) for completion in completions]
def format_reward(completions, **kwargs):
    return [1.0 if re.match(r"^<think>.*?</think><answer>.*?</answer>$", c) else 0.0 for c in completions]
def math_only(prompts, completions, task, **kwargs):
    return [1.0 if t == "math" else None for t in task]
async def fetched(prompts, completions, completion_ids, **kwargs):
    await asyncio.sleep(0)
    return [0.5 * len(ids) for ids in completion_ids]
"""


def test_functions_of_trls_form_run_unchanged(tmp_path, monkeypatch):
    (tmp_path / "trls.py").write_text(TRLS)
    monkeypatch.chdir(tmp_path)
    texts = ["<think>a</think><answer>b</answer>", "ab"]
    for process in (False, True):
        specs = {fn: RewardSpec(f"trls:{fn}", 1.0, process=process)
                 for fn in ("reward_len", "format_reward", "math_only", "fetched")}  # fmt: skip
        with load_rewards(specs, GRADING) as rewards:
            batch = run(rewards, texts, task=["math", "chat"], answer=["1", "2"])
        assert {name: values.tolist() for name, values in batch.by_name.items()} == {
            "reward_len": [34, 2], "format_reward": [1, 0], "math_only": [1, 0], "fetched": [0, 0.5],
        }  # fmt: skip
        assert batch.mine["math_only"].tolist() == [True, False]
    sys.modules.pop("trls")


def test_users_functions_receive_what_they_name(mine):
    batch = score({"length": "length"}, ["a", "bbb"], target=2)
    assert batch.by_name["length"].tolist() == [0.5, 1.5]
    assert score({"n": "named"}).by_name["n"].tolist() == [0, 1, 2, 3]
    assert score({"all": "everything"}).total_B.tolist() == [1] * 4
    assert sys.modules[mine].calls == [["answer", "completion_ids", "completions", "prompts", "task"]]
    served = score({"s": "served"})
    assert served.by_name["s"].tolist() == [3] * 4 and served.metrics["reward/s/seen"] == 4
    assert score({"x": "later"}, weight=-0.5).total_B.tolist() == [0, -0.5, -1, -1.5]
    assert score({"x": "instance"}).total_B.tolist() == [2] * 4
    assert score({"x": "array"}).total_B.tolist() == [0, 1, 2, 3]
    assert score({"x": "truth"}).total_B.tolist() == [1, 0, 0, 0]


def test_async_inside_a_running_loop(mine):
    async def stage():
        return score({"x": "later"})

    assert asyncio.run(stage()).total_B.tolist() == [0, 1, 2, 3]


def test_none_is_not_mine(mine):
    batch = score({"some": "some", "none": "none", "one": "everything"})
    assert batch.total_B.tolist() == [4, 1, 4, 4]
    assert batch.by_name["some"].tolist() == [3, 0, 3, 3]
    assert batch.mine["some"].tolist() == [True, False, True, True] and not batch.mine["none"].any()
    assert batch.metrics["reward/some/mean"] == 3 and "reward/none/mean" not in batch.metrics


@pytest.mark.parametrize("fn", ["raises", "exits", "short", "words", "nothing"])
def test_failures_are_scored_counted_and_logged(mine, fn, caplog):
    grading = RewardsConfig(timeout_s=20.0, on_error=-1.0, workers=1)
    with caplog.at_level(logging.WARNING):
        batch = score({"bad": fn, "good": "everything"}, ["first" * 1000, "b"], grading)
    assert batch.total_B.tolist() == [0, 0]  # -1 and 1
    assert batch.metrics["reward/bad/errors"] == 2 and batch.metrics["reward/good/errors"] == 0
    assert "config.rewards.bad.fn" in caplog.text and "firstfirst" in caplog.text and len(caplog.text) < 1000


def test_not_finite_is_scored_where_it_occurs(mine, caplog):
    with caplog.at_level(logging.WARNING):
        batch = score({"bad": "nan"}, grading=RewardsConfig(20.0, 0.25, 1))
    assert batch.total_B.tolist() == [0.25, 5, 0.25, 0.25]
    assert batch.metrics["reward/bad/not_finite"] == 3 and batch.metrics["reward/bad/errors"] == 0
    assert "returned nan" in caplog.text


def test_a_hanging_function_is_abandoned_and_not_called_again_meanwhile(mine, caplog):
    specs = {"bad": RewardSpec("my_rewards:hangs", 1.0, {}), "good": RewardSpec("my_rewards:everything", 1.0, {})}
    with load_rewards(specs, RewardsConfig(0.3, 0.5, 1)) as rewards, caplog.at_level(logging.WARNING):
        start = time.monotonic()
        for _ in range(2):
            batch = run(rewards, ["a", "b"])
            assert batch.total_B.tolist() == [1.5, 1.5] and batch.metrics["reward/bad/timeouts"] == 2
        assert time.monotonic() - start < 1.5
        assert sys.modules[mine].calls.count("hang") == 1
        for thread in threading.enumerate():
            if thread.name == "r1jax-reward-bad":
                thread.join(5)
        run(rewards, ["a", "b"])
        assert sys.modules[mine].calls.count("hang") == 2
    assert "no result within 0.3 s" in caplog.text


def test_functions_run_at_the_same_time(mine):
    start = time.monotonic()
    assert score({str(i): "slow" for i in range(4)}).total_B.tolist() == [4] * 4
    assert time.monotonic() - start < 1.2


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        ("no_colon", "expected 'package.module:function'"),
        ("no_such_module:f", "no module 'no_such_module'"),
        ("r1jax.rewards.nothing:f", "no module 'r1jax.rewards.nothing'"),
        ("r1jax.rewards.answers:acuracy", "did you mean 'accuracy'"),
        ("my_rewards:constant", "a int; expected a function"),
        ("my_rewards:positional", "positional-only"),
        ("broken_rewards:f", "raised OSError: no such disk"),
    ],
)
def test_bad_paths_fail_at_start(mine, fn, message):
    with pytest.raises(ValueError, match=r"config\.rewards\.bad\.fn") as error:
        load_rewards({"bad": RewardSpec(fn, 1.0, {})}, GRADING)
    assert message in str(error.value) and fn in str(error.value)


def test_other_bad_configs_fail_at_start(mine):
    good = RewardSpec("my_rewards:length", 1.0, {"target": 2})
    with pytest.raises(ValueError, match=r"config\.rewards is empty"):
        load_rewards({}, GRADING)
    with pytest.raises(ValueError, match=r"weight is nan"):
        load_rewards({"x": RewardSpec(good.fn, float("nan"), {})}, GRADING)
    with pytest.raises(ValueError, match=r"kwargs\.answr is not a parameter.*did you mean 'answer'"):
        load_rewards({"x": RewardSpec("my_rewards:named", 1.0, {"answr": 1})}, GRADING)
    for grading in (RewardsConfig(0.0, 0.0, 1), RewardsConfig(1.0, float("nan"), 1), RewardsConfig(1.0, 0.0, 0)):
        with pytest.raises(ValueError, match=r"config\.grading"):
            load_rewards({"x": good}, grading)


def test_check_names_the_missing_column(mine):
    with load_rewards({"x": RewardSpec("my_rewards:needs", 1.0, {})}, GRADING) as rewards:
        with pytest.raises(ValueError, match=r"rewards\.x\.fn requires the parameter 'no_such_column'"):
            rewards.check(dict(answer=["1"], task=["t"]))
        rewards.check(dict(no_such_column=["1"], task=["t"]))
    for spec in (RewardSpec("my_rewards:served", 1.0, {}), RewardSpec("my_rewards:length", 1.0, {"target": 1})):
        with load_rewards({"x": spec}, GRADING) as rewards:
            rewards.check(dict(task=["t"]))
    with load_rewards(R1_ZERO, GRADING) as rewards, pytest.raises(ValueError, match="'answer'"):
        rewards.check(dict(task=["t"]))


def test_bad_batches(mine):
    with load_rewards({"x": RewardSpec("my_rewards:everything", 1.0, {})}, GRADING) as rewards:
        with pytest.raises(ValueError, match="at least one"):
            run(rewards, [])
        with pytest.raises(ValueError, match="3 of 'answer' for 2"):
            run(rewards, ["a", "b"], answer=["1"] * 3)


def test_a_function_cannot_change_what_others_see(mine):
    batch = score({"bad": "changes", "good": "truth"})
    assert batch.by_name["good"].tolist() == [1, 0, 0, 0] and batch.metrics["reward/bad/errors"] == 4


def test_tasks_route_and_others_are_not_shown(mine):
    specs = {
        "rules": RewardSpec("my_rewards:named", 1.0, tasks=["math", "gym:*"]),
        "model": RewardSpec("my_rewards:everything", 2.0, tasks=["chat"]),
        "late": RewardSpec("my_rewards:truth", 1.0, start=3, stop=4),
    }
    tasks = ["math", "chat", "gym:x", "other"]
    with load_rewards(specs, GRADING) as rewards:
        batch = run(rewards, ["a", "b", "c", "a"], task=tasks, answer=["1"] * 4)
        assert batch.total_B.tolist() == [1, 2, 2, 1]
        assert {name: rows.tolist() for name, rows in batch.mine.items()} == {
            "rules": [True, False, True, False], "model": [False, True, False, False], "late": [True] * 4,
        }  # fmt: skip
        assert batch.metrics["reward/model/mean"] == 1 and batch.metrics["reward/frac_unscored"] == 0
        scored = {step: start(rewards, step, tasks).result() for step in (2, 3, 4, 5)}
        assert [list(b.by_name) for b in scored.values()] == [
            ["rules", "model"], ["rules", "model", "late"], ["rules", "model", "late"], ["rules", "model"],
        ]  # fmt: skip
        assert scored[2].metrics["reward/frac_unscored"] == 0.25
        assert rewards.check_routes(["math", "chat"]) == []
        with pytest.raises(ValueError, match=r"rewards\.model\.tasks is \['chat'\].*did you mean 'chats'"):
            rewards.check_routes(["math", "chats"])
    only = {"rules": specs["rules"]}
    with load_rewards(only, GRADING) as rewards:
        assert "no reward applies to the task 'chat'" in rewards.check_routes(["math", "chat"])[0]
        rewards.check(dict(task=["chat"]))  # lacks 'answer', but none of its tasks is here
    for fields in (dict(start=0), dict(start=3, stop=2), dict(stop=-1)):
        with pytest.raises(ValueError, match=r"rewards\.x\.start is"):
            load_rewards({"x": RewardSpec("my_rewards:named", 1.0, **fields)}, GRADING)


def start(rewards, step, tasks):
    n = len(tasks)
    return rewards.start(["?"] * n, ["a"] * n, {"task": tasks, "answer": ["1"] * n}, [[0]] * n, step)


def test_what_hangs_or_dies_in_a_process_of_its_own_is_killed_and_called_again(mine, caplog):
    specs = {fn: RewardSpec(f"my_rewards:{fn}", 1.0, process=True) for fn in ("dies", "stalls")}
    specs["ids"] = RewardSpec("my_rewards:ids", 1.0, {"level": 0.5}, process=True)
    with load_rewards(specs, RewardsConfig(1.5, -1.0, 1)) as rewards, caplog.at_level(logging.WARNING):
        for completions, expected in ((["a"], [1, 2]), (["die", "stall"], [-1, -1]), (["a"], [1, 2])):
            began = time.monotonic()
            batch = rewards(["?"] * len(completions), completions, {"task": ["t"] * len(completions)},
                            [np.arange(3)] * len(completions))  # fmt: skip
            assert [batch.by_name[fn][0] for fn in specs] == [*expected, 3.5]
            assert time.monotonic() - began < 5
            if "die" in completions:
                assert batch.metrics["reward/dies/crashes"] == 2 and batch.metrics["reward/stalls/timeouts"] == 2
    assert "config.rewards.dies.fn: crashes: the worker died (exit status 7)" in caplog.text
    assert "config.rewards.stalls.fn: timeouts: no result within 1.5 s" in caplog.text


def test_a_process_has_no_services_and_must_be_able_to_import(mine):
    with (
        load_rewards({"x": RewardSpec("my_rewards:served", 1.0, process=True)}, GRADING) as rewards,
        pytest.raises(ValueError, match=r"requires the parameter 'pool'.*drop config\.rewards\.x\.process"),
    ):
        rewards.check(dict(task=["t"]))
    sys.modules["my_rewards"].only_here = sys.modules["my_rewards"].length
    with pytest.raises(ValueError, match=r"rewards\.x\.fn is 'my_rewards:only_here', which cannot be imported"):
        load_rewards({"x": RewardSpec("my_rewards:only_here", 1.0, {"target": 1}, process=True)}, GRADING)


def test_services_that_a_stage_offers(mine):
    made = []

    def echo(kwargs):
        made.append(dict(kwargs))
        return lambda completions: [float(len(text)) for text in completions]

    with load_rewards({"x": RewardSpec("my_rewards:told", 1.0)}, GRADING, {"echo": echo}) as rewards:
        rewards.check(dict(task=["t"]))
        assert run(rewards, ["a", "bbb"]).by_name["x"].tolist() == [1, 3]
    assert made == [{}]


def test_a_companion_warns_or_refuses(mine):
    with load_rewards({"x": RewardSpec("my_rewards:checked", 1.0, tasks=["a"])}, GRADING) as rewards:
        assert rewards.check(dict(task=["b", "a", "a"], answer=["1", "2", "3"])) == [
            "config.rewards.x: 2 answers, the first 2"
        ]
    with (
        load_rewards({"x": RewardSpec("my_rewards:checked", 1.0, {"least": 9})}, GRADING) as rewards,
        pytest.raises(ValueError, match="least is 9"),
    ):
        rewards.check(dict(task=["a"], answer=["1"]))


def test_calls_go_on_while_the_caller_works(mine):
    with load_rewards({"x": RewardSpec("my_rewards:slow", 1.0)}, GRADING) as rewards:
        pending = start(rewards, 1, ["t"])
        time.sleep(0.4)
        began = time.monotonic()
        assert pending.result().total_B.tolist() == [1]
        assert time.monotonic() - began < 0.2
