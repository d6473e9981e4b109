"""r1jax and its peers on the same workloads, in turn, in one run; every line goes to a file.

    python bench/compare.py --out runs/bench.jsonl --model dense-S moe-S --rounds 5
        [--peers DIR --torch-python PY --tunix-python PY]

`--peers` is the folder of the peers' scripts, `peer_trl.py` and `peer_tunix.py`, each of which runs in an environment
of its own. A round runs every program once, a process each, one after the other, and the machine's matmul ceiling; so
whatever else slows the machine down meets all alike. A line also says how many cores other work took (`other_cores`).
`bench/page.py` makes docs/benchmarks.md of the file.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.workloads import MODELS  # noqa: E402

DTYPES = ("float32", "bfloat16")
MEASURES = ("rollout", "grpo", "sft")


class Program(NamedTuple):
    """A process that prints lines of measurements."""

    words: list[str]
    folder: Path


def programs(args: argparse.Namespace, model: str) -> Iterator[Program]:
    """One of each peer and measure, peers next to each other within a measure."""
    for dtype in args.dtype:
        for measure in args.measure:
            counts = ["--warmup", str(args.warmup), "--repeats", str(args.repeats)]
            common = ["--model", model, "--dtype", dtype, *counts]
            yield Program([sys.executable, str(ROOT / "bench" / "run.py"), *common, "--measure", measure], ROOT)
            if args.torch_python:
                # In bfloat16 transformers generates fastest with eager attention; in float32 with the default.
                eager = ["--attn", "eager"] if (measure, dtype) == ("rollout", "bfloat16") else []
                named = "sft_loop" if measure == "sft" else measure
                script = str(Path(args.peers) / "peer_trl.py")
                yield Program([args.torch_python, script, *common, *eager, "--measure", named], Path(args.peers))
            if args.tunix_python and MODELS[model]["family"] == "qwen2":
                weights = ["--param-dtype", "float32"] if dtype == "bfloat16" and measure != "rollout" else []
                script = str(Path(args.peers) / "peer_tunix.py")
                yield Program([args.tunix_python, script, *common, *weights, "--measure", measure], Path(args.peers))


def measured(program: Program, limit_s: float) -> list[dict[str, Any]]:
    """Its lines; of one that fails, a line that says so. What it says on stderr goes to the terminal then."""
    alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    try:
        done = subprocess.run(
            program.words, cwd=program.folder, env=alone, capture_output=True, text=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        return [{"measure": "failed", "command": shlex.join(program.words[1:]), "why": f"over {limit_s:g} s"}]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        lines.append({"measure": "failed", "command": shlex.join(program.words[1:]), "why": f"exit {done.returncode}"})
    return lines


def machine() -> dict[str, Any]:
    """The line that stands first: date, processor, cores and memory."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    kind = next((line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "measure": "machine", "date": datetime.date.today().isoformat(), "processor": kind or platform.processor(),
        "architecture": platform.machine(), "cores": os.cpu_count(), "memory_gib": round(memory, 1),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--measure", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1, help="within a round")
    parser.add_argument("--limit-s", type=float, default=1800, help="of one process")
    parser.add_argument("--peers", default="", help="folder of the peers' scripts")
    parser.add_argument("--torch-python", default="", help="interpreter with torch, transformers and trl")
    parser.add_argument("--tunix-python", default="", help="interpreter with google-tunix")
    args = parser.parse_args()
    if (args.torch_python or args.tunix_python) and not args.peers:
        parser.error("--peers is empty; give the folder of peer_trl.py and peer_tunix.py")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    failed = 0
    with args.out.open("w", encoding="utf-8") as file:

        def write(line: dict[str, Any]) -> None:
            file.write(json.dumps(line) + "\n")
            file.flush()

        write(machine())
        for line in versions(args):
            write(line)
        for number in range(args.rounds):
            for python in filter(None, dict.fromkeys([sys.executable, args.torch_python])):
                for line in measured(Program([python, str(ROOT / "bench" / "ceiling.py")], ROOT), args.limit_s):
                    write(line | {"round": number})
            for model in args.model:
                for program in programs(args, model):
                    print(f"round {number + 1}/{args.rounds}: {shlex.join(program.words[1:])}", file=sys.stderr)
                    for line in measured(program, args.limit_s):
                        failed += line["measure"] == "failed"
                        write(line | {"round": number})
    return 1 if failed else 0


def versions(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A line of each peer's packages."""
    scripts = [
        (sys.executable, ROOT / "bench" / "run.py"),
        (args.torch_python, Path(args.peers) / "peer_trl.py"),
        (args.tunix_python, Path(args.peers) / "peer_tunix.py"),
    ]
    for python, script in scripts:
        if python:
            words = [python, str(script), "--model", "dense-S", "--measure", "versions"]
            yield from measured(Program(words, script.parent), args.limit_s)


if __name__ == "__main__":
    sys.exit(main())
