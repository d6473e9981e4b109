"""The sandbox: honest programs, hostile ones, and its absence."""

import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hostile_programs import PRELUDE, PROGRAMS, SECRET

from r1jax.rewards import seccomp
from r1jax.rewards.sandbox import Ended, Limits, require, run

ROOT = Path(__file__).resolve().parent.parent
LIMITS = Limits(cpu_s=1, wall_s=3, memory_mib=256, disk_mib=16, output_kib=256)


def why_not() -> str:
    try:
        require()
    except ValueError as error:
        return str(error)
    return ""


WHY_NOT = why_not()
needs_sandbox = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def memory_mib() -> float:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def sandboxed_processes() -> set[int]:
    """Processes of this machine that live in a process namespace below this one's."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            namespaced = re.search(r"^NSpid:\t(.*)$", status.read_text(), re.MULTILINE)
        except (FileNotFoundError, ProcessLookupError):
            continue
        if namespaced and len(namespaced[1].split()) > len(OWN_LEVELS):
            found.add(int(status.parent.name))
    return found


OWN_LEVELS = re.search(r"^NSpid:\t(.*)$", Path("/proc/self/status").read_text(), re.MULTILINE)[1].split()


@pytest.fixture(scope="module")
def hostile():
    """All hostile programs, four at a time: how each ended, its seconds, and the trainer before and after."""
    os.environ["R1JAX_SECRET"] = SECRET
    given = f"{PRELUDE}\nTRAINER, CHECKOUT = {os.getpid()}, {str(ROOT)!r}\n"

    def attack(item):
        name, (_, source) = item
        start = time.monotonic()
        # The expressions stand for a test's calls; they are seen. Scripts have none.
        ended = run(f"{given}{source}\nprint('held')", (), "some input", LIMITS)
        return name, ended, time.monotonic() - start

    run("print(1)", (), "", LIMITS)  # what is imported or allocated once
    before = descriptors(), memory_mib(), sandboxed_processes()
    with ThreadPoolExecutor(4) as threads:  # with more, an honest second passes before a program has had its turn
        ends = {name: (ended, seconds) for name, ended, seconds in threads.map(attack, PROGRAMS.items())}
    after = descriptors(), memory_mib(), sandboxed_processes()
    del os.environ["R1JAX_SECRET"]
    return ends, before, after


@needs_sandbox
@pytest.mark.parametrize("name", PROGRAMS)
def test_hostile_program(hostile, name):
    ended, seconds = hostile[0][name]
    assert b"escaped" not in ended.output
    assert len(ended.output) <= (LIMITS.output_kib << 10) + (1 << 16)
    assert seconds < LIMITS.wall_s + 5, "outlived its limit"
    if ended.status != "exited":
        how = ended.status
    else:
        how = "held" if ended.output.endswith(b"held\n") else "dead"
        assert (how == "held") == (ended.code == 0)
    assert how in PROGRAMS[name][0].split("|"), ended


@needs_sandbox
def test_nothing_is_left_of_hostile_programs(hostile):
    _, before, after = hostile
    assert after[0] == before[0], "open descriptors"
    assert after[1] < before[1] + 64, "MiB of memory"
    left = after[2] - before[2]
    deadline = time.monotonic() + 10  # other sandboxes of this machine come and go
    while left & sandboxed_processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left & sandboxed_processes()


def test_enough_hostile_programs():
    assert len(PROGRAMS) >= 25


def test_no_program_is_run_without_the_sandbox(monkeypatch, tmp_path):
    """Nor where there is a bwrap that does not work."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="no bwrap on the PATH"):
        run(f"open({str(tmp_path / 'ran')!r}, 'w')", (), "", LIMITS)
    with pytest.raises(ValueError, match="apt-get install bubblewrap"):
        require()
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho no namespaces here >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(RuntimeError, match="no namespaces here"):
        run(f"open({str(tmp_path / 'ran')!r}, 'w')", (), "", LIMITS)
    with pytest.raises(ValueError, match=r"no namespaces here.*apt-get install bubblewrap"):
        require()
    broken.write_text("")  # not even a program
    with pytest.raises(ValueError, match="apt-get install bubblewrap"):
        require()
    assert not (tmp_path / "ran").exists()


@needs_sandbox
def test_a_script_has_what_it_needs():
    source = """
import collections, dataclasses, heapq, itertools, json, math, random, re, sys, threading
sys.setrecursionlimit(100000); threading.stack_size(64 << 20)
@dataclasses.dataclass
class Point:
    x: int
def main():
    def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
    with open('/tmp/notes', 'w') as f: f.write('kept')
    print(input()[::-1], Point(3), depth(20000), open('/tmp/notes').read(), __name__)
    print(sys.stdin.read(), end='')
thread = threading.Thread(target=main); thread.start(); thread.join()
"""
    ended = run(source, (), "née\nrest\nof it\n", LIMITS)
    assert ended == Ended("exited", 0, "eén Point(x=3) 20000 kept __main__\nrest\nof it\n".encode())


@needs_sandbox
def test_limits_and_exit_codes():
    assert run("import sys; sys.exit(3)", (), "", LIMITS) == Ended("exited", 3, b"")
    assert run("1 / 0", (), "", LIMITS) == Ended("exited", 1, b"")
    source = "import time; print('a', flush=True); time.sleep(99)"
    assert run(source, (), "", LIMITS._replace(wall_s=0.5)) == Ended("timeout", 0, b"a\n")
    size = "x = bytes({} << 20); print(len(x) >> 20)"
    assert run(size.format(100), (), "", LIMITS).output == b"100\n"
    assert run(size.format(300), (), "", LIMITS).code == 1
    assert run(size.format(300), (), "", LIMITS._replace(memory_mib=512)).output == b"300\n"
    spill = "open('/tmp/x', 'wb').write(bytes({} << 20)); print('fits')"
    assert run(spill.format(15), (), "", LIMITS).output == b"fits\n"
    assert run(spill.format(17), (), "", LIMITS).output == b""


@needs_sandbox
def test_expressions():
    source = (
        "import enum\nclass Colour(enum.IntEnum): RED = 5\ndef f(x): return {x: (x, [None, 1.5])}\nprint('unasked')"
    )
    expressions = ["f('\\x00é')", "1 / 0", "exit()", "{1}", "Colour.RED", "object()", "float('inf')", "f"]
    ended = run(source, expressions, "", LIMITS)
    assert ended.status == "exited" and ended.code == 0
    lines = [json.loads(line) for line in ended.output.splitlines()]
    packed = ["tuple", [["str", "\0é"], ["list", [["NoneType", None], ["float", 1.5]]]]]
    assert lines == [
        [0, ["dict", [[["str", "\0é"], packed]]]],
        [1, None],
        [2, None],
        [3, ["set", [["int", 1]]]],
        [4, ["int", 5]],
        [5, ["object"]],
        [6, ["float", float("inf")]],
        [7, ["function"]],
    ]


@needs_sandbox
def test_what_an_expression_sees_of_the_others():
    """All calls, and nothing that they should give; results so far stand when one hangs."""
    ended = run("def f(x):\n  while x: pass\n  return 7", ["f(0)", "f(1)", "f(0)"], "", LIMITS)
    assert ended.status == "timeout" and json.loads(ended.output) == [0, ["int", 7]]


@pytest.mark.parametrize(
    ("header", "pattern", "column"),
    [
        ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", r"#define __NR_(\w+)\s+(\d+)", 0),
        ("/usr/include/asm-generic/unistd.h", r"#define __NR(?:3264)?_(\w+)\s+(\d+)", 1),
    ],
)
def test_system_call_numbers(header, pattern, column):
    if not Path(header).is_file():
        pytest.skip(f"no {header} to compare with; install linux-libc-dev")
    known = dict(re.findall(pattern, Path(header).read_text()))
    for name, numbers in {**seccomp.REFUSED, "clone": seccomp.CLONE, "clone3": seccomp.CLONE3}.items():
        if name in known or numbers[column] is None:
            assert (None if numbers[column] is None else str(numbers[column])) == known.get(name), name


def test_an_unknown_machine_is_refused():
    with pytest.raises(ValueError, match="machine 'vax'; expected one of x86_64, aarch64"):
        seccomp.program("vax")
    assert len(seccomp.program("aarch64")) % 8 == len(seccomp.program("x86_64")) % 8 == 0
