"""The same policy trained for the same job by r1jax and by TRL, in turn, seed by seed; every line goes to a file.

    python -m r1jax.main --config=configs/r1_zero_tiny.py --workdir=runs/quickstart
    python bench/job.py --base runs/quickstart/base --folder runs/job --torch-python PY --out runs/job.jsonl
    python bench/job_page.py runs/job.jsonl --figure docs/benchmarks_job.svg > docs/benchmarks_job.md

The base is the quickstart's first stage. First its exported files are held against r1jax, on one batch; then each side
trains, a process a seed. `--seeds` may name some of them: the lines are added to the file.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import compare  # noqa: E402
from bench import job_setting as job  # noqa: E402


def programs(args: argparse.Namespace) -> Iterator[compare.Program]:
    """What is still to run, in its order."""
    ours, theirs = (str(ROOT / "bench" / name) for name in ("job_r1jax.py", "job_trl.py"))
    given = ["--base", str(Path(args.base).absolute()), "--folder", str(Path(args.folder).absolute())]
    if not (Path(args.folder) / job.BATCH_FILE).exists():
        yield compare.Program([sys.executable, ours, "prepare", *given], ROOT)
        yield compare.Program([args.torch_python, theirs, "check", *given[2:]], ROOT)
    for seed in args.seeds:
        yield compare.Program([sys.executable, ours, "run", *given, "--seed", str(seed)], ROOT)
        yield compare.Program([args.torch_python, theirs, "run", *given[2:], "--seed", str(seed)], ROOT)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", required=True, help="workdir of the policy to start from")
    parser.add_argument("--folder", required=True, help="for what both sides read; made if it is not there")
    parser.add_argument("--torch-python", required=True, help="interpreter with torch, transformers and trl")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=list(job.SEEDS), help="none: the check alone")
    parser.add_argument("--limit-s", type=float, default=1800, help="of one process")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    begun, failed = args.out.exists(), 0
    with args.out.open("a", encoding="utf-8") as file:
        for line in [] if begun else [compare.machine()]:
            file.write(json.dumps(line) + "\n")
        for program in programs(args):
            print(shlex.join(program.words[1:]), file=sys.stderr)
            for line in compare.measured(program, args.limit_s):
                failed += line["measure"] == "failed"
                file.write(json.dumps(line) + "\n")
            file.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
