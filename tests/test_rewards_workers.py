"""The pool of killable processes, with functions that misbehave in each way a grader can."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from r1jax.rewards.workers import WorkerPool

GRADERS = """
import os, signal, sys, time
def double(x): return 2 * x
def behave(how, x):
    if how == "sleep": time.sleep(3600)
    if how == "spin": 9**9**9
    if how == "exit": os._exit(5)
    if how == "quit": sys.exit(0)
    if how == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if how == "raise": raise KeyError("told to")
    if how == "memory": return len([bytes(1 << 28) for _ in range(64)])
    if how == "print": print("noise on stdout", flush=True); os.write(1, b"more")
    if how == "unspeakable": return object()
    if how == "recurse": return behave(how, x)
    return x
def imports(name): return name in sys.modules
def pid(): return os.getpid()
def nap(seconds): time.sleep(seconds); return os.getpid()
"""


@pytest.fixture(autouse=True)
def graders(tmp_path, monkeypatch):
    (tmp_path / "pool_graders.py").write_text(GRADERS)
    monkeypatch.syspath_prepend(str(tmp_path))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_results_in_order_many_large_and_none():
    with WorkerPool(2, 5, 1024) as pool:
        assert pool.map("pool_graders:double", []) == []
        outcomes = pool.map("pool_graders:double", [(i,) for i in range(500)])
        assert [o.value for o in outcomes] == [2 * i for i in range(500)]
        large = ["x" * n for n in (1, 300_000, 5, 1_000_000, 40_000)]
        assert [o.value for o in pool.map("pool_graders:double", [(t,) for t in large])] == [2 * t for t in large]
        hostile = ["\0\ud800\U0001f600\n\r", "]}"]
        assert [o.value for o in pool.map("pool_graders:behave", [("echo", t) for t in hostile])] == hostile


def test_each_misbehaviour_hurts_only_its_own_call():
    hows = ["sleep", "spin", "exit", "quit", "kill", "raise", "memory", "print", "unspeakable", "recurse"]
    calls = [call for i, how in enumerate(hows) for call in (("fine", i), (how, i))] + [("fine", 99)]
    expected = ["timeout", "timeout", "crashed", "crashed", "crashed", "error", "crashed", "ok", "error", "error"]
    start = time.monotonic()
    with WorkerPool(2, 1.0, 512) as pool:
        outcomes = pool.map("pool_graders:behave", calls)
        assert [o.status for o in outcomes[1::2]] == expected
        fine = outcomes[::2]
        assert [(o.status, o.value) for o in fine] == [("ok", i) for i in [*range(len(hows)), 99]]
        assert "told to" in outcomes[11].message and "1 s" in outcomes[1].message and "5" in outcomes[5].message
        assert [o.value for o in pool.map("pool_graders:double", [(4,)])] == [8]
    assert time.monotonic() - start < 15


def test_workers_do_not_import_jax():
    with WorkerPool(1, 30, 2048) as pool:
        for module in ("r1jax.rewards.answers", "r1jax.rewards.equivalence"):
            calls = [("1",)] if module.endswith("answers") else [("1", "1")]
            pool.map(f"{module}:{'canonical' if module.endswith('answers') else 'same'}", calls)
        loaded = pool.map("pool_graders:imports", [("jax",), ("flax",), ("sympy",)])
    assert [o.value for o in loaded] == [False, False, True]


def test_starts_lazily_and_leaves_nothing():
    before = descriptors()
    pool = WorkerPool(2, 5, 512)
    assert descriptors() == before
    pids = {o.value for o in pool.map("pool_graders:nap", [(0.2,)] * 4)}
    assert len(pids) == 2 and all(alive(pid) for pid in pids)
    pool.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids), "neither running nor zombie"
    assert descriptors() == before
    with pytest.raises(RuntimeError, match="closed"):
        pool.map("pool_graders:pid", [()])


def test_kills_leak_no_descriptors_or_processes():
    with WorkerPool(1, 0.1, 512) as pool:
        pool.map("pool_graders:behave", [("exit", 0)])
        before = descriptors()
        pool.map("pool_graders:behave", [("exit", 0), ("sleep", 0)] * 3)
        pool.map("pool_graders:double", [(1,)])
        assert descriptors() <= before + 2  # the pipes of the one process that runs now


def test_threads_share_the_pool():
    results = {}

    def work(k):
        results[k] = [o.value for o in pool.map("pool_graders:double", [(100 * k + i,) for i in range(40)])]

    with WorkerPool(2, 5, 512) as pool:
        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == {k: [2 * (100 * k + i) for i in range(40)] for k in range(4)}


def test_budget_bounds_the_whole_map():
    with WorkerPool(1, 5, 512) as pool:
        pool.map("pool_graders:pid", [()])
        start = time.monotonic()
        outcomes = pool.map("pool_graders:nap", [(0.3,)] * 20, budget_s=1.0)
        assert time.monotonic() - start < 2.5
    statuses = [o.status for o in outcomes]
    assert statuses[0] == "ok" and statuses[-1] == "timeout" and set(statuses) == {"ok", "timeout"}


def test_what_does_not_import_raises():
    with WorkerPool(1, 5, 512) as pool:
        with pytest.raises(RuntimeError, match="no_such_module"):
            pool.map("no_such_module:f", [()])
        with pytest.raises(RuntimeError, match="no_such_name"):
            pool.map("pool_graders:no_such_name", [()])
        assert pool.map("pool_graders:double", [(1,)])[0].value == 2


def test_closing_ends_calls_in_flight():
    pool = WorkerPool(1, 60, 512)
    pid = pool.map("pool_graders:pid", [()])[0].value
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.extend(pool.map("pool_graders:behave", [("sleep", 0)])))
    thread.start()
    time.sleep(0.3)
    pool.close()
    thread.join(5)
    assert [o.status for o in outcomes] == ["crashed"] and not alive(pid)


def test_workers_die_with_a_killed_parent(tmp_path):
    """Idle and busy ones, the busy one inside C code that holds the interpreter's lock."""
    code = (
        "import threading, time; from r1jax.rewards.workers import WorkerPool\n"
        "pool = WorkerPool(2, 1.5, 512)\n"
        "print(*{o.value for o in pool.map('pool_graders:nap', [(0.3,)] * 2)}, flush=True)\n"
        "pool.map('pool_graders:behave', [('spin', 0)])\n"
    )
    root = str(Path(__file__).resolve().parents[1])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([root, str(tmp_path)])}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        time.sleep(0.2)
        parent.send_signal(signal.SIGKILL)
    assert len(pids) == 2
    deadline = time.monotonic() + 6
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in pids)


@pytest.mark.parametrize("limits", [(0, 1, 512), (1, 0, 512), (1, float("inf"), 512), (1, 1, 0)])
def test_limits_are_checked(limits):
    with pytest.raises(ValueError, match="positive, finite"):
        WorkerPool(*limits)
