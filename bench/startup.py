"""From the command to a first step: seconds, processor seconds, and the programs made ready until then.

    python bench/startup.py --repeats 3

A pipeline of two stages is started with nothing kept (`cold`): no compiled programs, no prepared data; and then again
with what that left (`warm`). Its first stage is cut to a few steps, so that the second one begins, and the run is ended
when that has recorded its first step. The first stage's figures begin with the command, the second one's with the
result of the first. Shapes are the config's own. One JSON line a config, stage and state, each the median of repeats.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import measuring  # noqa: E402

CONFIGS = ("smoke", "r1_zero_tiny")  # pipelines of two stages
STEPS = 2  # of the first stage
POLL_S = 0.01
LIMIT_S = 600.0
TICKS = os.sysconf("SC_CLK_TCK")


class Start(NamedTuple):
    """One start of a stage."""

    seconds: float
    cpu_s: float  # of the process and of those that it has waited for
    programs: int
    cached: int  # programs that were read from the cache
    compile_s: float  # of both kinds


class Moment(NamedTuple):
    seconds: float
    cpu_seconds: float


def starts(config: str, repeats: int) -> dict[tuple[str, str], list[Start]]:
    """(stage, "cold" or "warm") -> its starts."""
    found = defaultdict(list)
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="r1jax-startup-") as folder:
            for state in ("cold", "warm"):
                for stage, start in once(config, Path(folder), Path(folder) / state).items():
                    found[stage, state].append(start)
    return dict(found)


def once(config: str, kept: Path, workdir: Path) -> dict[str, Start]:
    """Starts a pipeline; what outlives a run is in `kept`.

    Raises:
      RuntimeError: it ended, or took too long, before its second stage had made a step.
    """
    words = [sys.executable, "-m", "r1jax.main", f"--config=configs/{config}.py", f"--workdir={workdir}"]
    tree = importlib.import_module(f"configs.{config}").get_config()
    first, second = tree.order
    words += [f"--config.stages.{stage}.data.data_dir={kept / 'data'}" for stage in tree.order]
    words += [
        f"--config.stages.{first}.steps={STEPS}",
        f"--config.stages.{first}.evaluation.limit={tree.stages[second].rollout.prompts}",
    ]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(kept / "compiled")}
    began = time.perf_counter()
    said = kept / "said"  # a file, as a pipe that nobody reads would stop the run when it is full
    with said.open("wb") as file:
        run = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=file)
    try:
        command = Moment(began, 0.0)
        one = _when(run, said, lambda: _first_row(workdir / first))
        between = _when(run, said, (workdir / first / "result.json").exists)
        other = _when(run, said, lambda: _first_row(workdir / second))
    finally:
        run.kill()
        run.wait()
    return {
        first: _start(command, one, _first_row(workdir / first)),
        second: _start(between, other, _first_row(workdir / second)),
    }


def _when(run: subprocess.Popen, said: Path, happened: Callable[[], Any]) -> Moment:
    """The moment at which something is there for the first time."""
    limit = time.perf_counter() + LIMIT_S
    while not happened():
        if run.poll() is not None or time.perf_counter() > limit:
            run.kill()
            raise RuntimeError(f"no first step: exit {run.returncode}: {said.read_text(encoding='utf-8')[-2000:]}")
        time.sleep(POLL_S)
    return Moment(time.perf_counter(), _cpu_seconds(run.pid))


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / TICKS


def _first_row(folder: Path) -> dict[str, Any] | None:
    path = folder / "metrics.jsonl"
    line = path.read_text(encoding="utf-8").partition("\n") if path.exists() else ("", "", "")
    return json.loads(line[0]) if line[1] else None


def _start(begin: Moment, end: Moment, row: dict[str, Any] | None) -> Start:
    assert row is not None, "waited for"
    made = int(row["compile/count"]), int(row["compile/cached"]), row["compile/seconds"]
    return Start(end.seconds - begin.seconds, end.cpu_seconds - begin.cpu_seconds, *made)


def lines(config: str, found: dict[tuple[str, str], list[Start]]) -> list[dict[str, Any]]:
    """A line a stage and state, medians."""
    out = []
    for (stage, state), repeats in found.items():
        all_s, *others = zip(*repeats, strict=True)
        names = ("cpu_s", "programs", "cached", "compile_s")
        medians = [measuring.significant(statistics.median(values)) for values in others]
        span = [measuring.significant(x) for x in (min(all_s), max(all_s))]
        more = dict(stage=stage, state=state, n=len(repeats), span=span) | dict(zip(names, medians, strict=True))
        out.append(measuring.line(config, "startup", statistics.median(all_s), "s", **more))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a run which is under way ends, too
    for config in args.config:
        for line in lines(config, starts(config, args.repeats)):
            measuring.say(line)


if __name__ == "__main__":
    main()
